"""From a trainer's reports to `status.progress`: what is shown, and at most one write per job in ten seconds.

A trainer may report every step; etcd may not be written every step. So the first report of an attempt and the final one
are written at once, and in between the newest report waits for its turn. Each write reads the job first: another replica
may have taken newer reports of the same trainer, and an older attempt must not overwrite a newer one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import ValidationError

from finetune_operator.api.constants import API_VERSION, KIND, PROGRESS_FIELD_MANAGER
from finetune_operator.api.durations import format_duration
from finetune_operator.api.progress import (
    METRIC_ATTEMPT,
    METRIC_CHECKPOINT_STEP,
    METRIC_CHECKPOINTS_REJECTED,
    METRIC_EVALUATED_ROWS,
    METRIC_EVALUATION_ROWS,
    METRIC_LOSS,
    TrainerStatus,
    number,
    whole_number,
)
from finetune_operator.api.status import ProgressStatus
from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import FINETUNE_JOBS, Api, ApiError, Body, Conflict, NotFound
from finetune_operator.jobs.times import text_of

logger = logging.getLogger(__name__)

WRITE_INTERVAL_SECONDS: Final = 10.0
FORGET_SECONDS: Final = 3600.0
METRICS_SHOWN: Final = 64
_FLUSH_SECONDS: Final = 1.0
_CONCURRENT_WRITES: Final = 8

_METRIC_NAME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9_./@-]*$")

Result = Literal["written", "deferred", "ignored"]
Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""


def progress_status(
    report: TrainerStatus, attempt: int | None, now: str, previous: ProgressStatus | None = None
) -> ProgressStatus:
    """Return what is shown of a report; what it does not say stays as `previous` (of the same attempt) showed it.

    Only numbers are shown: a metric with any other value could carry the content of a row.
    """
    attempt = attempt if attempt is not None else whole_number(report.metric(METRIC_ATTEMPT))
    before = previous if previous is not None and previous.attempt == attempt else ProgressStatus()
    step = _first(report.step, before.step)
    total = _first(report.total_steps, before.total_steps)
    loss = number(report.metric(METRIC_LOSS))
    percentage = _first(report.progress_percentage, before.percentage)
    evaluation = _share(report.metric(METRIC_EVALUATED_ROWS), report.metric(METRIC_EVALUATION_ROWS))
    remaining = None if percentage == 100 and evaluation is None else report.estimated_remaining_seconds
    shown = [m for m in report.metrics if _METRIC_NAME.match(m.name) and number(m.value) is not None][:METRICS_SHOWN]
    return ProgressStatus(
        attempt=attempt,
        step=step,
        total_steps=total,
        steps=f"{step}/{total}" if step is not None and total is not None else None,
        percentage=percentage,
        evaluation=evaluation,
        loss=before.loss if loss is None else f"{loss:.4g}",
        eta=None if remaining is None else format_duration(remaining),
        estimated_remaining_seconds=remaining,
        checkpoint_step=_first(whole_number(report.metric(METRIC_CHECKPOINT_STEP)), before.checkpoint_step),
        last_updated_time=now,
        metrics=shown or before.metrics,
    )


@dataclass
class _JobProgress:
    """What this replica knows of one job's progress."""

    status: ProgressStatus
    reported_at: float
    written_at: float
    pending: bool = False
    writing: bool = False


class ProgressWriter:
    """Takes reports and writes `status.progress`; run `flush_forever` beside the server.

    `on_rejected` is told how many checkpoints did not verify since the report that was shown before: by the difference of
    two writes, so that each is counted once however many replicas take reports.
    """

    def __init__(self, api: Api, clock: Clock, on_rejected: Callable[[int], None] = lambda checkpoints: None) -> None:
        self._api = api
        self._clock = clock
        self._on_rejected = on_rejected
        self._jobs: dict[Key, _JobProgress] = {}

    async def take(self, key: Key, report: TrainerStatus, attempt: int | None) -> Result:
        """Show a report now or at its turn.

        Raises:
            NotFound: there is no such job (any more).
        """
        now = self._clock.monotonic()
        known = self._jobs.get(key)
        if known is None:
            shown = shown_progress(await self._api.get(FINETUNE_JOBS, *key))
            status = progress_status(report, attempt, text_of(self._clock.now()), shown)
            # Two first reports at once: the second finds the first one's entry here.
            known = self._jobs.setdefault(key, _JobProgress(status, now, -math.inf))
        before = known.status
        status = progress_status(report, attempt, text_of(self._clock.now()), before)
        if (status.attempt or 0) < (before.attempt or 0):
            return "ignored"
        known.status, known.reported_at, known.pending = status, now, True
        is_new_attempt = status.attempt != before.attempt
        is_final = status.percentage == 100 and before.percentage != 100
        if not known.writing and (is_new_attempt or is_final or now - known.written_at >= WRITE_INTERVAL_SECONDS):
            return await self._write(key, known)
        return "deferred"

    async def flush_forever(self) -> None:
        """Write for ever what is due, and forget jobs that have not reported for an hour."""
        while True:
            await self._clock.sleep(_FLUSH_SECONDS)
            due_before = self._clock.monotonic() - WRITE_INTERVAL_SECONDS
            await self._write_all([key for key, known in self._jobs.items() if known.written_at <= due_before])
            old = self._clock.monotonic() - FORGET_SECONDS
            for key in [key for key, known in self._jobs.items() if known.reported_at <= old]:
                del self._jobs[key]

    async def flush(self) -> None:
        """Write everything that waits, before the process ends."""
        await self._write_all(list(self._jobs))

    async def _write_all(self, keys: list[Key]) -> None:
        slots = asyncio.Semaphore(_CONCURRENT_WRITES)

        async def write(key: Key) -> None:
            async with slots:
                known = self._jobs.get(key)
                if known is None or known.writing or not known.pending:
                    return
                try:
                    await self._write(key, known)
                except NotFound:
                    logger.info("progress of %s/%s is dropped: there is no such job any more", *key)

        await asyncio.gather(*(write(key) for key in keys))

    async def _write(self, key: Key, known: _JobProgress) -> Result:
        known.writing, known.pending, known.written_at = True, False, self._clock.monotonic()
        status = known.status
        try:
            job = await self._api.get(FINETUNE_JOBS, *key)
            shown = shown_progress(job)
            if shown is not None and _is_older(status, shown):
                known.status = shown if known.status is status else known.status
                return "ignored"
            await self._api.apply(_progress_body(job, status), manager=PROGRESS_FIELD_MANAGER, subresource="status")
        except NotFound:
            self._jobs.pop(key, None)
            raise
        except Conflict as error:  # our uid is not the job's any more: deleted and created again
            self._jobs.pop(key, None)
            raise NotFound(404, "NotFound", f"{KIND} {key[0]}/{key[1]} is another one now") from error
        except ApiError as error:
            known.pending = True
            logger.warning("progress of %s/%s could not be written, tried again soon: %s", *key, error)
            return "deferred"
        finally:
            known.writing = False
        before = shown if shown is not None and shown.attempt == status.attempt else ProgressStatus()
        rejected = _rejected(status) - _rejected(before)
        if rejected > 0:
            self._on_rejected(rejected)
        return "written"


def shown_progress(job: Body) -> ProgressStatus | None:
    """Return the progress that a FineTuneJob shows, or None."""
    try:
        return ProgressStatus.model_validate((job.get("status") or {}).get("progress"))
    except ValidationError:
        return None


def _is_older(status: ProgressStatus, shown: ProgressStatus) -> bool:
    """Whether `shown` comes from a newer attempt, or from a later report of the same one."""
    if (status.attempt or 0) != (shown.attempt or 0):
        return (status.attempt or 0) < (shown.attempt or 0)
    return (status.last_updated_time or "") < (shown.last_updated_time or "")


def _rejected(status: ProgressStatus) -> int:
    """Return how many checkpoints did not verify in the attempt so far."""
    return next((whole_number(m.value) or 0 for m in status.metrics if m.name == METRIC_CHECKPOINTS_REJECTED), 0)


def _progress_body(job: Body, status: ProgressStatus) -> Body:
    metadata: dict[str, Any] = {name: job["metadata"][name] for name in ("namespace", "name", "uid")}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "status": {"progress": status.to_json_dict()},
    }


def _share(done: str | None, total: str | None) -> str | None:
    counts = whole_number(done), whole_number(total)
    return None if None in counts else f"{counts[0]}/{counts[1]}"


def _first(value: int | None, otherwise: int | None) -> int | None:
    return otherwise if value is None else value
