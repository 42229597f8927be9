"""What ends by the clock: run.deadline and run.ttlAfterFinished. A suspension does not stop either of them."""

from __future__ import annotations

from datetime import datetime

from finetune_operator.api.durations import parse_duration
from finetune_operator.api.job import FineTuneJob
from finetune_operator.jobs.times import moment_of


def seconds_to_deadline(job: FineTuneJob, now: datetime) -> float | None:
    """Return the seconds until run.deadline is over, not positive when it is; None when there is none, or the job has not started."""
    if job.spec.run.deadline is None or job.status.start_time is None:
        return None
    return _left(job.status.start_time, job.spec.run.deadline, now)


def seconds_to_removal(job: FineTuneJob, now: datetime) -> float | None:
    """Return the seconds until a finished job is deleted, not positive when it is due; None when it is kept."""
    if job.spec.run.ttl_after_finished is None or job.status.completion_time is None:
        return None
    return _left(job.status.completion_time, job.spec.run.ttl_after_finished, now)


def _left(start: str, duration: str, now: datetime) -> float:
    return parse_duration(duration) - (now - moment_of(start)).total_seconds()
