"""The attempts of a job, put together anew each time from names and labels, and from status only where nothing else is left.

What survives what: a child's number stands in its name and label; how often a job has failed before stands in the newest attempt's immutable
ConfigMap (`chargedBefore`); why an attempt failed stands in `status.attempts`, and can be read again from the batch Job's condition and pods while
the Job is kept (the last two are). So a lost status costs only the story of old attempts, and lost children only the count; a job that has lost both
starts with attempt 1 again, and resumes from its newest verified checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_operator.api.constants import ATTEMPTS_KEPT, COMPONENT_TRAIN
from finetune_operator.api.exit_codes import meaning_of
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import IMMUTABLE_AFTER_START, FineTuneJobSpec
from finetune_operator.api.status import AttemptStatus, FineTuneJobStatus
from finetune_operator.jobs.causes import cause_of_attempt, failing, seconds_until_cause
from finetune_operator.jobs.conditions import shortened
from finetune_operator.jobs.decisions import ChildReference
from finetune_operator.jobs.names import attempt_name, config_map_reference, job_reference, service_reference
from finetune_operator.jobs.observed import ChildJob, Observed, PodReport
from finetune_operator.jobs.retry import Cause, GiveUp, Retry, delay_before_next, judge
from finetune_operator.jobs.times import moment_of, seconds_since, text_of

CHILDREN_KEPT: Final = 2
"""How many attempts keep their Jobs: the newest, and the one before it for its log."""
SHORT_LIFE_SECONDS: Final = 120.0
"""An attempt that failed sooner, and no later in the training than the one before, did nothing; several in a row are followed ever more slowly."""


@dataclass(frozen=True)
class Attempts:
    """All attempts that anything is known of, oldest first."""

    records: tuple[AttemptStatus, ...] = ()
    look_again_after: float | None = None
    """Seconds until the newest one's cause is settled, when it fails and no cause is named yet."""

    @property
    def latest(self) -> AttemptStatus | None:
        """The newest attempt."""
        return self.records[-1] if self.records else None

    def before(self, record: AttemptStatus) -> AttemptStatus | None:
        """The attempt before one of these."""
        return next((other for other in reversed(self.records) if other.number < record.number), None)

    @property
    def next_number(self) -> int:
        """The number of an attempt that does not exist yet."""
        return self.records[-1].number + 1 if self.records else 1

    @property
    def shown(self) -> list[AttemptStatus]:
        """What status keeps."""
        return list(self.records[-ATTEMPTS_KEPT:])

    def replaced(self, record: AttemptStatus) -> Attempts:
        """Return these attempts with `record` in place of the one of its number, or added."""
        others = (r for r in self.records if r.number != record.number)
        return Attempts(tuple(sorted((*others, record), key=lambda r: r.number)), self.look_again_after)


def attempts_of(job: FineTuneJob, observed: Observed) -> Attempts:
    """Return the attempts as they stand now."""
    before = {record.number: record for record in job.status.attempts}
    jobs = {child.attempt: child for child in observed.children if child.component == COMPONENT_TRAIN and child.attempt}
    numbers = sorted({*before, *jobs, *observed.attempts})
    records = []
    waiting: float | None = None
    for number in numbers:
        child = jobs.get(number)
        pods = pods_of(observed, number)
        record = _record(job.status, number, before.get(number), child, pods, observed.now)
        if record.result == "Running" and child is not None and failing(child) is not None:
            waiting = seconds_until_cause(child, observed.now)
        records.append(record)
    # Below a newer attempt nothing runs: where status was lost together with the Job, the story ends without a cause.
    for index, record in enumerate(records[:-1]):
        if record.result in ("Running", "Suspended") and jobs.get(record.number) is None:
            records[index] = record.model_copy(
                update={"result": "Failed", "message": "its Job is gone, its cause unknown"}
            )
    return Attempts(tuple(records), waiting)


def pods_of(observed: Observed, attempt: int) -> tuple[PodReport, ...]:
    """Return the pods of one attempt."""
    return tuple(pod for pod in observed.pods if pod.component == COMPONENT_TRAIN and pod.attempt == attempt)


def charged_failures(attempts: Attempts, observed: Observed) -> int:
    """Return how many failed attempts count against `run.retries`, the newest one included."""
    latest = attempts.latest
    if latest is None:
        return 0
    file = observed.attempts.get(latest.number)
    before = file.charged_before if file else sum(record.charged for record in attempts.records[:-1])
    return before + int(latest.charged)


def verdict(job: FineTuneJob, attempts: Attempts, observed: Observed) -> Retry | GiveUp | None:
    """Return what follows the newest attempt, or None when it has not failed."""
    latest = attempts.latest
    if latest is None or latest.result != "Failed":
        return None
    if latest.reason is None or latest.reason is Reason.REPLANNED:
        return Retry()
    retry = _can_be_retried(latest)
    cause = Cause(latest.reason, latest.message, latest.exit_code, retry=retry, charged=latest.charged)
    return judge(cause, charged=charged_failures(attempts, observed), retries=job.spec.run.retries)


def seconds_until_next(attempts: Attempts, now: datetime) -> float:
    """Return how long the next attempt must still wait after the newest one's failure."""
    short = 0
    for earlier, record in reversed(list(zip((None, *attempts.records), attempts.records, strict=False))):
        if (
            record.result != "Failed"
            or record.reason in _FOLLOWED_BY_ANOTHER_PLAN
            or _life(record) >= SHORT_LIFE_SECONDS
            or _got_further(record, earlier)
        ):
            break
        short += 1
    latest = attempts.latest
    if latest is None or latest.completion_time is None:
        return 0.0
    return max(0.0, delay_before_next(short) - seconds_since(moment_of(latest.completion_time), now))


def was_superseded(job: FineTuneJob, latest: AttemptStatus | None, file: AttemptFile | None) -> bool:
    """Whether the spec was changed after an attempt was planned that never started, as it waits suspended."""
    if latest is None or file is None or job.status.start_time is not None or latest.result != "Suspended":
        return False
    return not same_work(job.spec, file.spec)


def same_work(one: FineTuneJobSpec, other: FineTuneJobSpec) -> bool:
    """Whether two specs are equal in everything that cannot change after the start."""
    return all(getattr(one, part) == getattr(other, part) for part in IMMUTABLE_AFTER_START)


def superseded(record: AttemptStatus, now: datetime) -> AttemptStatus:
    """Return the record of an attempt that was planned for a spec that is not valid any more."""
    return record.model_copy(
        update={
            "result": "Failed",
            "reason": Reason.REPLANNED,
            "message": "the spec was changed before this attempt started",
            "completion_time": text_of(now),
        }
    )


def outdated_children(job: FineTuneJob, attempts: Attempts, observed: Observed) -> tuple[ChildReference, ...]:
    """Return what is left of attempts whose logs nobody needs: all but the newest two, and those that never ran."""
    latest = attempts.latest
    if latest is None:
        return ()
    unused = {record.number for record in attempts.records if record.reason is Reason.REPLANNED}
    old = {
        number for number in (record.number for record in attempts.records) if number <= latest.number - CHILDREN_KEPT
    }
    return references_of(job.metadata.name, old | (unused - {latest.number}), observed)


def references_of(job: str, numbers: Iterable[int], observed: Observed) -> tuple[ChildReference, ...]:
    """Return the objects of these attempts that exist."""
    references: list[ChildReference] = []
    for number in sorted(numbers):
        name = attempt_name(job, number)
        child = observed.child(COMPONENT_TRAIN, number)
        if child is not None and not child.deleting:
            references.append(job_reference(name))
        if number in observed.attempts:
            if observed.attempts[number].plan.pods > 1:
                references.append(service_reference(name))
            references.append(config_map_reference(name))
    return tuple(references)


def _record(
    status: FineTuneJobStatus,
    number: int,
    previous: AttemptStatus | None,
    child: ChildJob | None,
    pods: tuple[PodReport, ...],
    now: datetime,
) -> AttemptStatus:
    if previous is not None and previous.result in ("Succeeded", "Failed"):
        return previous
    base = previous or AttemptStatus(number=number, result="Running")
    progress = status.progress
    seen = [pod.termination.step for pod in pods if pod.termination and pod.termination.step is not None]
    if progress is not None and progress.attempt == number and progress.step is not None:
        seen.append(progress.step)
    if child is None:
        return base
    base = base.model_copy(update={"start_time": base.start_time or text_of(child.created)})
    if child.has_condition("Complete") or child.has_condition("SuccessCriteriaMet"):
        ended = text_of(child.completed or now)
        return base.model_copy(
            update={"result": "Succeeded", "completion_time": ended, "last_step": max(seen, default=None)}
        )
    if (condition := failing(child)) is not None and (cause := cause_of_attempt(child, pods, now)) is not None:
        return base.model_copy(
            update={
                "result": "Failed",
                "reason": cause.reason,
                "message": shortened(cause.message),
                "exit_code": cause.exit_code,
                "charged": cause.charged,
                "completion_time": text_of(condition.last_transition_time or now),
                "last_step": max(seen, default=cause.step),
                "log_uri": cause.log_uri,
                "memory_shortage": cause.memory_shortage,
            }
        )
    return base.model_copy(update={"result": "Suspended" if child.suspended else "Running"})


def _can_be_retried(record: AttemptStatus) -> bool:
    from_code = meaning_of(record.exit_code) if record.exit_code is not None else None
    return record.reason in _ALWAYS_RETRIED or from_code is None or from_code.retry


def _got_further(record: AttemptStatus, earlier: AttemptStatus | None) -> bool:
    """Whether an attempt was not in vain: three evictions within a minute are three events, and no reason to wait."""
    return earlier is not None and (record.last_step or 0) > (earlier.last_step or 0)


def _life(record: AttemptStatus) -> float:
    if record.start_time is None or record.completion_time is None:
        return 0.0
    return seconds_since(moment_of(record.start_time), moment_of(record.completion_time))


_FOLLOWED_BY_ANOTHER_PLAN: Final = frozenset({Reason.REPLANNED, Reason.GPU_OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY})
"""It may succeed at once; and replans come to an end by themselves."""

_ALWAYS_RETRIED: Final = frozenset({Reason.DISRUPTED})
"""A pod that was taken away may even have ended with code 0."""
