"""The one status write: what a stage decided, laid over what was known before, with the Events that tell of the difference."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB
from finetune_operator.api.reasons import REASON_MEANINGS, ConditionType, Reason
from finetune_operator.api.status import Condition, FineTuneJobStatus, PlanStatus, ResultStatus
from finetune_operator.jobs.attempts import Attempts
from finetune_operator.jobs.conditions import Finding, is_finished, merge, shortened
from finetune_operator.jobs.decisions import JobEvent
from finetune_operator.jobs.degraded import degraded
from finetune_operator.jobs.evaluation import evaluation_status
from finetune_operator.jobs.observed import Observed
from finetune_operator.jobs.stage import Stage
from finetune_operator.jobs.time_accounts import accounted
from finetune_operator.jobs.times import text_of
from finetune_operator.jobs.training import plan_status

_TOLD_WHEN_TRUE: Final = {
    ConditionType.ACCEPTED: "Normal",
    ConditionType.INSPECTED: "Normal",
    ConditionType.PLANNED: "Normal",
    ConditionType.RUNNING: "Normal",
    ConditionType.PUBLISHED: "Normal",
    ConditionType.COMPLETE: "Normal",
    ConditionType.SUSPENDED: "Normal",
    ConditionType.FAILED: "Warning",
    ConditionType.STALLED: "Warning",
    ConditionType.DEGRADED: "Warning",
}
_TOLD_WHEN_FALSE: Final = frozenset({ConditionType.ACCEPTED, ConditionType.INSPECTED, ConditionType.PLANNED})
_DECIDED: Final = (
    "gpu_product",
    "pods",
    "processes",
    "strategy",
    "micro_batch_size",
    "gradient_checkpointing",
    "expected_gib",
)
"""What of a plan makes its peak memory."""
_TOLD_REASONS: Final = frozenset(
    {Reason.UNSCHEDULABLE, Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CANNOT_START, Reason.PUBLICATION_FAILED}
)


def status_after(job: FineTuneJob, observed: Observed, attempts: Attempts, stage: Stage) -> FineTuneJobStatus:
    """Return the status that a stage makes of the stored one; `progress` is absent, it has another writer."""
    before, now = job.status, observed.now
    generation = job.metadata.generation
    suspended, worked_around = _suspended(job), degraded(job, observed)
    plan = stage.plan or before.plan
    account = accounted(job, observed, attempts)
    return FineTuneJobStatus(
        observed_generation=generation,
        state=stage.state,
        message=shortened(stage.message),
        start_time=before.start_time or (text_of(now) if stage.started else None),
        completion_time=before.completion_time or (text_of(now) if stage.ended else None),
        conditions=merge(before.conditions, (suspended, worked_around, *stage.findings), generation, now),
        source=stage.source or (before.source if is_finished(before) else None),
        sources=list(stage.sources) or (before.sources if is_finished(before) else []),
        inspection=stage.inspection or before.inspection,
        plan=_measured(plan, before.plan, observed) if plan else None,
        attempts=account.attempts.shown,
        time=account.total,
        evaluation=evaluation_status(job, observed) or before.evaluation,
        result=ResultStatus(uri=stage.result_uri, destinations=stage.destinations)
        if stage.result_uri
        else before.result,
    )


def events_between(before: FineTuneJobStatus, after: FineTuneJobStatus) -> tuple[JobEvent, ...]:
    """Return what is worth telling of the difference between two statuses."""
    known = {record.number for record in before.attempts if record.result == "Failed"}
    events = [
        JobEvent(
            "Warning",
            record.reason or Reason.TRAINER_ERROR,
            f"attempt {record.number} failed{_at(record.last_step)}: {record.message}",
        )
        for record in after.attempts
        if record.result == "Failed" and record.number not in known
    ]
    for condition in after.conditions:
        old = before.condition(condition.type)
        if old is None or (old.status, old.reason) != (condition.status, condition.reason) or _is_worse(old, condition):
            # One trouble often shows in two conditions (Inspected and Stalled); it is told once.
            said = {event.message for event in events}
            events.extend(event for event in _told(old, condition) if event.message not in said)
    return tuple(events)


def _is_worse(old: Condition, condition: Condition) -> bool:
    """Whether another thing was worked around: each is told, although the condition stays as it is."""
    return condition.type is ConditionType.DEGRADED and condition.status == "True" and old.message != condition.message


def _told(old: Condition | None, condition: Condition) -> list[JobEvent]:
    text = condition.message or REASON_MEANINGS[condition.reason].meaning
    if condition.status == "True" and condition.type in _TOLD_WHEN_TRUE:
        kind = _TOLD_WHEN_TRUE[condition.type]
        return [JobEvent("Warning" if kind == "Warning" else "Normal", condition.reason, text)]
    if condition.status == "False" and (condition.type in _TOLD_WHEN_FALSE or condition.reason in _TOLD_REASONS):
        return [JobEvent("Warning", condition.reason, text)]
    if condition.type is ConditionType.SUSPENDED and old is not None and old.status == "True":
        return [JobEvent("Normal", Reason.RESUMED, "the job goes on")]
    return []


def _at(step: int | None) -> str:
    return "" if step is None else f" after step {step}"


def _suspended(job: FineTuneJob) -> Finding:
    if job.spec.run.suspend:
        return Finding(ConditionType.SUSPENDED, "True", Reason.SUSPENDED_BY_USER, "run.suspend is true")
    old = job.status.condition(ConditionType.SUSPENDED)
    resumed = old is not None and (old.status == "True" or old.reason is Reason.RESUMED)
    return Finding(ConditionType.SUSPENDED, "False", Reason.RESUMED if resumed else Reason.NOT_SUSPENDED)


def _measured(plan: PlanStatus, before: PlanStatus | None, observed: Observed) -> PlanStatus:
    """Return the plan with the highest peak of its attempts so far; pods and their words go, the number stays.

    What an earlier plan has measured is not this one's: a replan after an out-of-memory takes less.
    """
    others = {number for number, file in observed.attempts.items() if not _is_same(plan, plan_status(file.plan))}
    peaks = [
        pod.termination.peak_memory_bytes / GIB
        for pod in observed.pods
        if pod.component == "train"
        and pod.termination
        and pod.termination.peak_memory_bytes
        and pod.attempt not in others
    ]
    known = plan.measured_gib or (before.measured_gib if before and _is_same(plan, before) else None)
    if known is not None:
        peaks.append(float(known))
    return plan.model_copy(update={"measured_gib": f"{max(peaks):.2f}" if peaks else None})


def _is_same(one: PlanStatus, other: PlanStatus) -> bool:
    """Whether two plans run the same way; fields that only a newer operator shows do not count."""
    return all(getattr(one, name) == getattr(other, name) for name in _DECIDED)
