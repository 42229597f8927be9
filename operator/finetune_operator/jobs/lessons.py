"""What a finished job teaches the history of runs: its measured peak and speed beside what the formulas had said of its plan."""

from __future__ import annotations

import hashlib

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB, Plan
from finetune_operator.api.progress import METRIC_TOKENS_PER_SECOND
from finetune_operator.api.reasons import ConditionType
from finetune_operator.api.status import FineTuneJobStatus, ProgressStatus
from finetune_operator.jobs.conditions import holds
from finetune_operator.jobs.observed import Observed
from finetune_operator.planner.gpu_labels import SHARED_RESOURCE
from finetune_operator.planner.history import FinishedRun


def finished_run(job: FineTuneJob, status: FineTuneJobStatus, observed: Observed) -> FinishedRun | None:
    """Return what a job that is Complete has measured, or None when it says nothing of its plan. The same job always tells the same."""
    if not holds(status, ConditionType.COMPLETE) or status.completion_time is None or not status.attempts:
        return None
    number = status.attempts[-1].number
    file = observed.attempts.get(number)
    if file is None or file.plan.prediction is None:
        return None
    measured = status.plan.measured_gib if status.plan else None
    peak = round(float(measured) * GIB) if measured and not _is_shared(file.plan) else None
    speed = _tokens_per_second(job.status.progress, number)
    if peak is None and speed is None:
        return None
    return FinishedRun(
        id=hashlib.sha256(job.metadata.uid.encode()).hexdigest()[:16],
        finished_at=status.completion_time,
        prediction=file.plan.prediction,
        peak_bytes=peak,
        tokens_per_second=speed,
    )


def _is_shared(plan: Plan) -> bool:
    """Whether other pods' memory is in what was measured of the GPU; MIG devices are nobody else's."""
    return plan.gpu_resource == SHARED_RESOURCE or (plan.gpu_product or "").endswith("-SHARED")


def _tokens_per_second(progress: ProgressStatus | None, attempt: int) -> float | None:
    if progress is None or progress.attempt != attempt:
        return None
    text = next((metric.value for metric in progress.metrics if metric.name == METRIC_TOKENS_PER_SECOND), "")
    try:
        return float(text) if text else None
    except ValueError:
        return None  # an unmodified trainer may call something else by that name
