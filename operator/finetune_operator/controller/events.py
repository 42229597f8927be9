"""Kubernetes Events about jobs: an equal one is counted in a series instead of written again, and memory is bounded.

Events are for people and may be lost: a failed write is logged and never fails the reconcile that caused it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.constants import API_VERSION, FIELD_MANAGER, GROUP, KIND
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.clock import Clock, micro_timestamp
from finetune_operator.controller.kube import EVENTS, Api, ApiError, Body
from finetune_operator.jobs.desired import JobEvent

logger = logging.getLogger(__name__)

REMEMBERED: Final = 2048
SERIES_SECONDS: Final = 600.0
"""Equal events less than this apart are one series."""
NOTE_LIMIT_BYTES: Final = 1024


@dataclass
class _Series:
    body: Body
    count: int
    last: float


class EventRecorder:
    """Writes events.k8s.io/v1 Events."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        instance: str,
        on_written: Callable[[Reason], None] = lambda reason: None,
    ) -> None:
        self._on_written = on_written
        self._api = api
        self._clock = clock
        self._instance = instance
        self._series: OrderedDict[tuple[str, JobEvent], _Series] = OrderedDict()

    async def post(self, namespace: str, name: str, uid: str, event: JobEvent) -> None:
        """Write the Event, or count it."""
        body = self._next(namespace, name, uid, event)
        if body is None:
            return
        try:
            await self._api.apply(body, manager=FIELD_MANAGER)
        except ApiError as error:
            logger.warning("an event could not be written: %s", error, extra={"job": f"{namespace}/{name}"})
        else:
            self._on_written(event.reason)

    def _next(self, namespace: str, name: str, uid: str, event: JobEvent) -> Body | None:
        now = self._clock.monotonic()
        key = (uid, event)
        series = self._series.get(key)
        if series is None or now - series.last > SERIES_SECONDS:
            series = _Series(self._body(namespace, name, uid, event), 1, now)
            self._series[key] = series
            self._series.move_to_end(key)
            if len(self._series) > REMEMBERED:
                self._series.popitem(last=False)
            return series.body
        series.count += 1
        series.last = now
        self._series.move_to_end(key)
        if series.count & (series.count - 1):
            return None  # written at 2, 4, 8, …: a job that fails all day costs a dozen writes
        observed = {"count": series.count, "lastObservedTime": micro_timestamp(self._clock.now())}
        return {**series.body, "series": observed}

    def _body(self, namespace: str, name: str, uid: str, event: JobEvent) -> Body:
        now = self._clock.now()
        # As client-go names them: unique by time, so that a restarted operator starts a series of its own.
        suffix = f"{int(now.timestamp() * 1_000_000):x}{abs(hash((uid, event))) % 4096:03x}"
        note = event.message.encode()[:NOTE_LIMIT_BYTES].decode(errors="ignore")
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{name}.{suffix}", "namespace": namespace},
            "eventTime": micro_timestamp(now),
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": event.type,
            "reason": str(event.reason),
            "note": note,
            "regarding": {"apiVersion": API_VERSION, "kind": KIND, "namespace": namespace, "name": name, "uid": uid},
        }
