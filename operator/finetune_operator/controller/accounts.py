"""What the metrics are told of jobs: attempts that ended, and the final values of jobs that finished."""

from __future__ import annotations

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB
from finetune_operator.api.reasons import ConditionType
from finetune_operator.api.status import AttemptStatus, FineTuneJobStatus
from finetune_operator.controller.cache import JobKey
from finetune_operator.controller.metrics import FinishedJob, OperatorMetrics
from finetune_operator.jobs.conditions import holds, is_finished
from finetune_operator.jobs.times import moment_of, seconds_since


class Accounts:
    """Compares the status that was with the one that is, after it was written."""

    def __init__(self, metrics: OperatorMetrics) -> None:
        self._metrics = metrics

    def settle(self, job: FineTuneJob, status: FineTuneJobStatus) -> None:
        """Count what has ended between the job's old status and `status`."""
        before = {attempt.number: attempt for attempt in job.status.attempts}
        earlier: AttemptStatus | None = None
        for attempt in status.attempts:
            if has_ended(attempt) and not has_ended(before.get(attempt.number)):
                self._attempt_ended(attempt, earlier, status)
            earlier = attempt
        finished = finished_job(job, status)
        if finished is not None:
            self._metrics.job_finished(finished)

    def _attempt_ended(self, attempt: AttemptStatus, earlier: AttemptStatus | None, status: FineTuneJobStatus) -> None:
        if attempt.reason is not None:
            self._metrics.attempt_ended(attempt.reason)
        if attempt.time is not None:
            gpus = status.plan.gpus if status.plan else 0
            self._metrics.attempt_accounted(attempt.time, "gpu" if gpus else "cpu")
        if earlier is not None and earlier.completion_time and attempt.first_step_time:
            self._metrics.recovery_seconds.observe(_seconds(earlier.completion_time, attempt.first_step_time))

    def forget(self, key: JobKey) -> None:
        """Drop the final values of a job that was deleted."""
        self._metrics.job_deleted(key.namespace, key.name)


def has_ended(attempt: AttemptStatus | None) -> bool:
    """Whether the attempt is over."""
    return attempt is not None and attempt.result in ("Succeeded", "Failed")


def finished_job(job: FineTuneJob, status: FineTuneJobStatus) -> FinishedJob | None:
    """Return the final values of a job that is Complete or Failed, else None."""
    if not is_finished(status):
        return None
    progress, plan = job.status.progress, status.plan
    return FinishedJob(
        namespace=job.metadata.namespace,
        job=job.metadata.name,
        succeeded=holds(status, ConditionType.COMPLETE),
        attempts=max((attempt.number for attempt in status.attempts), default=0),
        seconds=_seconds(status.start_time, status.completion_time),
        steps=progress.step if progress else None,
        loss=float(progress.loss) if progress and progress.loss else None,
        peak_memory_bytes=_gib(plan.measured_gib) if plan else None,
        expected_memory_bytes=_gib(plan.expected_gib) if plan else None,
        figures=_figures(status),
    )


def _figures(status: FineTuneJobStatus) -> tuple[tuple[str, str, float], ...]:
    figures = status.evaluation.figures if status.evaluation else ()
    return tuple(
        (figure.name, model, float(value))
        for figure in figures
        for model, value in (("base", figure.base), ("tuned", figure.tuned))
        if value is not None
    )


def _seconds(start: str | None, end: str | None) -> float:
    if not start or not end:
        return 0.0
    return seconds_since(moment_of(start), moment_of(end))


def _gib(text: str | None) -> int | None:
    return round(float(text) * GIB) if text else None
