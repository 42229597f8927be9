"""Where the time of an attempt went, made up once, when it has ended, from times that Kubernetes and the trainer have written down.

An attempt is in the account of its job when status says that it has ended: the same write, fenced by the job's resourceVersion, ends it and adds
it, so that neither a restart of the operator nor a decision on stale data counts it twice. Of an attempt that was suspended only what came after
its last resume is known, since its older pods are gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_operator.api.constants import COMPONENT_TRAIN
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import Plan
from finetune_operator.api.reasons import ConditionType
from finetune_operator.api.status import AttemptStatus
from finetune_operator.api.time_spent import LostCause, TimeAccount, TimeSpent, WaitCause, time_spent_of
from finetune_operator.jobs.attempts import Attempts
from finetune_operator.jobs.observed import Observed, PodReport
from finetune_operator.jobs.running import newest_pods
from finetune_operator.jobs.times import moment_of, seconds_since, text_of


@dataclass(frozen=True)
class Accounted:
    """The attempts, those that have just ended with their accounts, and the job's account with them."""

    attempts: Attempts
    total: TimeAccount | None


def accounted(job: FineTuneJob, observed: Observed, attempts: Attempts) -> Accounted:
    """Return the attempts with the accounts of those that have ended since the status was written."""
    known = {record.number for record in job.status.attempts if _has_ended(record)}
    total = job.status.time
    earlier: AttemptStatus | None = None
    for record in attempts.records:
        told = record
        if _has_ended(record) and record.number not in known and record.start_time is not None:
            told = _with_account(job, observed, record, earlier)
            attempts = attempts.replaced(told)
            total = (total or TimeAccount()).plus(told.time or TimeAccount())
        earlier = told
    return Accounted(attempts, total)


def _has_ended(record: AttemptStatus) -> bool:
    return record.result in ("Succeeded", "Failed")


def _with_account(
    job: FineTuneJob, observed: Observed, record: AttemptStatus, earlier: AttemptStatus | None
) -> AttemptStatus:
    pods = newest_pods(observed, record.number)
    spent = _told(job, record, pods)
    file = observed.attempts.get(record.number)
    end = moment_of(record.completion_time) if record.completion_time else observed.now
    created = moment_of(record.start_time) if record.start_time else observed.now
    waiting: dict[str, int] = {}
    scheduled = [pod.scheduled_at for pod in pods if pod.scheduled_at is not None]
    if scheduled:
        waiting[WaitCause.QUEUE] = round(seconds_since(max(created, _resumed(job)), max(scheduled)))
    if earlier is not None and earlier.completion_time is not None:
        waiting[WaitCause.RESTART] = round(seconds_since(moment_of(earlier.completion_time), created))
    account = TimeAccount(waiting_seconds=_without_zeros(waiting))
    if file is not None:
        account = account.plus(held_time(file.plan, pods, end, spent))
    first_step = None if spent.first_step_time is None else datetime.fromtimestamp(spent.first_step_time, UTC)
    return record.model_copy(
        update={"time": account, "first_step_time": text_of(first_step) if first_step is not None else None}
    )


def held_time(plan: Plan, pods: Iterable[PodReport], end: datetime, spent: TimeSpent) -> TimeAccount:
    """Return what the GPUs of an attempt were held for, from the scheduling of each pod to its end."""
    per_pod = plan.processes_per_pod
    known = [pod for pod in pods if pod.scheduled_at is not None]
    started = [pod.started for pod in known if pod.started is not None]
    held = pull = 0.0
    for pod in known:
        since = pod.scheduled_at or end
        until = pod.finished or end
        held += per_pod * seconds_since(since, until)
        # A pod that never ran lost all that it held to its start.
        pull += per_pod * seconds_since(since, min(until, max(started)) if started else until)
    lost: dict[str, float] = {LostCause.PULL: pull}
    lost |= {cause: plan.processes * seconds for cause, seconds in spent.lost.items() if cause in set(LostCause)}
    productive = plan.processes * spent.productive
    lost[LostCause.OTHER] = max(0.0, held - productive - sum(lost.values()))
    return TimeAccount(
        productive_gpu_seconds=round(productive),
        lost_gpu_seconds=_without_zeros({cause: round(seconds) for cause, seconds in lost.items()}),
    )


def _told(job: FineTuneJob, record: AttemptStatus, pods: Iterable[PodReport]) -> TimeSpent:
    """Return the first pod's last words about its time, or what it reported last."""
    for pod in sorted(pods, key=lambda pod: -1 if pod.index is None else pod.index):
        if pod.component == COMPONENT_TRAIN and pod.termination is not None and pod.termination.time is not None:
            return pod.termination.time
    progress = job.status.progress
    if progress is None or progress.attempt != record.number:
        return TimeSpent()
    return time_spent_of((metric.name, metric.value) for metric in progress.metrics) or TimeSpent()


def _resumed(job: FineTuneJob) -> datetime:
    """Return when the job was resumed last, and was made if it never was suspended."""
    condition = job.status.condition(ConditionType.SUSPENDED)
    if condition is None or condition.status == "True":
        return datetime.min.replace(tzinfo=UTC)
    return moment_of(condition.last_transition_time)


def _without_zeros(seconds: dict[str, int]) -> dict[str, int] | None:
    return {str(cause): value for cause, value in sorted(seconds.items()) if value > 0} or None
