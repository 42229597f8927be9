"""Why pods are not there at all: a quota or an admission policy refuses them, and only the batch Job's Events say so.

Events of others are read for nothing else, and only where pods have been missing for some seconds. They are an explanation: when they cannot be
read, the job goes on without it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from finetune_operator.api.constants import COMPONENT_TRAIN
from finetune_operator.api.plan import AttemptFile
from finetune_operator.controller.cache import CachedChild
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import EVENTS, Api, ApiError, Body
from finetune_operator.jobs.causes import failing
from finetune_operator.jobs.observed import ChildJob, PodReport
from finetune_operator.jobs.times import seconds_since

PATIENCE_SECONDS: Final = 3.0
"""Pods of a new batch Job come within a second or so; Events are not read before that."""
_POD_NAME: Final = re.compile(r'^Error creating: pods "[^"]*" is ')
"""Each try has another name: the status would change with every one of them."""
_LOG = logging.getLogger(__name__)


class Refusals:
    """Reads what was said to batch Jobs whose pods are missing."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def of_children(
        self,
        namespace: str,
        children: Iterable[CachedChild],
        pods: Iterable[PodReport],
        attempts: Mapping[int, AttemptFile],
    ) -> dict[str, str]:
        """Return why pods of these children cannot be created, by the child's name; without an entry nothing refuses them."""
        reports = tuple(pods)
        found = {}
        for child in children:
            if self._lacks_pods(child.job, reports, attempts) and (said := await self._said_to(namespace, child.uid)):
                found[child.job.name] = said
        return found

    def _lacks_pods(self, child: ChildJob, pods: tuple[PodReport, ...], attempts: Mapping[int, AttemptFile]) -> bool:
        if child.suspended or child.deleting or child.has_condition("Complete") or failing(child) is not None:
            return False
        if seconds_since(child.created, self._clock.now()) < PATIENCE_SECONDS:
            return False
        file = attempts.get(child.attempt) if child.component == COMPONENT_TRAIN and child.attempt else None
        there = sum(
            (pod.component, pod.attempt) == (child.component, child.attempt) and pod.phase != "Failed" for pod in pods
        )
        return there < (file.plan.pods if file else 1)

    async def _said_to(self, namespace: str, uid: str) -> str:
        try:
            listing = await self._api.list(EVENTS, namespace, fields=f"regarding.uid={uid},reason=FailedCreate")
        except ApiError as error:
            _LOG.info("Events cannot be read, so that missing pods stay unexplained: %s", error)
            return ""
        newest = max(listing.items, key=_moment, default=None)
        return _POD_NAME.sub("", str(newest.get("note", ""))) if newest is not None else ""


def _moment(event: Body) -> str:
    """Return when an Event was last seen; all of these are RFC 3339 in UTC, so that text compares like time."""
    series: Mapping[str, Any] = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(time) for time in times if time), "")
