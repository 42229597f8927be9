"""Conditions as Kubernetes has them: one per type, lastTransitionTime moves only when the status changes, each type with its own reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import Condition, FineTuneJobStatus
from finetune_operator.jobs.times import text_of

Truth = Literal["True", "False", "Unknown"]
LONGEST_MESSAGE: Final = 4096
"""Of a condition or an attempt; the scheduler's words can be long, and a status is written often."""


@dataclass(frozen=True)
class Finding:
    """What a stage has to say for one condition type."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str = ""


_FAILURES: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.INVALID_DATA,
        Reason.OUTPUT_EXISTS,
        Reason.RETRIES_EXHAUSTED,
        Reason.DEADLINE_EXCEEDED,
        Reason.GPU_OUT_OF_MEMORY,
        Reason.HOST_OUT_OF_MEMORY,
        Reason.DIVERGED,
        Reason.CHECKPOINTS_UNUSABLE,
        Reason.UNSUPPORTED_COMBINATION,
        Reason.UNKNOWN_ARCHITECTURE,
        Reason.TRAINER_ERROR,
        Reason.REQUIREMENT_NOT_MET,
    }
)
_PROBLEMS_OF_A_RUN: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.INVALID_DATA,
        Reason.OUTPUT_EXISTS,
        Reason.INPUTS_CHANGED,
        Reason.STORAGE_REFUSED,
        Reason.STORAGE_UNAVAILABLE,
        Reason.TRAINER_ERROR,
        Reason.HOST_OUT_OF_MEMORY,
        Reason.RANK_KILLED,
        Reason.TERMINATED,
        Reason.DISRUPTED,
        Reason.CHECKPOINTS_UNUSABLE,
        Reason.DISK_FULL,
        Reason.UNSUPPORTED_COMBINATION,
        Reason.UNKNOWN_ARCHITECTURE,
    }
)

REASONS_OF: Final[Mapping[ConditionType, frozenset[Reason]]] = MappingProxyType(
    {
        ConditionType.ACCEPTED: frozenset({Reason.ACCEPTED, Reason.INVALID_SPEC, Reason.CHILD_NOT_OURS}),
        ConditionType.INSPECTED: frozenset(
            {
                Reason.WAITING_FOR_JOB,
                Reason.SOURCE_NOT_FOUND,
                Reason.SOURCE_FAILED,
                Reason.INSPECTING,
                Reason.INSPECTED,
                Reason.INSPECTION_REUSED,
            }
        )
        | _PROBLEMS_OF_A_RUN,
        ConditionType.PLANNED: frozenset(
            {
                Reason.WAITING_FOR_INSPECTION,
                Reason.PLANNED,
                Reason.REPLANNED,
                Reason.DOES_NOT_FIT,
                Reason.NO_CAPACITY,
                Reason.QUOTA_EXCEEDED,
                Reason.UNSUPPORTED_COMBINATION,
                Reason.UNKNOWN_ARCHITECTURE,
                Reason.INVALID_SPEC,
            }
        ),
        ConditionType.PODS_SCHEDULED: frozenset(
            {
                Reason.WAITING_FOR_PLAN,
                Reason.CREATING_PODS,
                Reason.UNSCHEDULABLE,
                Reason.SCHEDULED,
                Reason.RESTARTING,
                Reason.SUSPENDED_BY_USER,
                Reason.SUCCEEDED,
            }
        )
        | _FAILURES,
        ConditionType.RUNNING: frozenset(
            {
                Reason.WAITING_FOR_PLAN,
                Reason.WAITING_FOR_PODS,
                Reason.IMAGE_PULL_FAILED,
                Reason.CONTAINER_CANNOT_START,
                Reason.STARTING,
                Reason.RENDEZVOUS,
                Reason.TRAINING,
                Reason.EVALUATING,
                Reason.RESTARTING,
                Reason.SUSPENDED_BY_USER,
                Reason.SUCCEEDED,
            }
        )
        | _FAILURES,
        ConditionType.PUBLISHED: frozenset(
            {
                Reason.WAITING_FOR_TRAINING,
                Reason.PUBLISHING,
                Reason.PUBLISHED,
                Reason.PUBLICATION_FAILED,
                Reason.REQUIREMENT_NOT_MET,
                Reason.SUSPENDED_BY_USER,
            }
        )
        | _PROBLEMS_OF_A_RUN,
        ConditionType.COMPLETE: frozenset({Reason.IN_PROGRESS, Reason.SUCCEEDED}) | _FAILURES,
        ConditionType.FAILED: frozenset({Reason.IN_PROGRESS, Reason.SUCCEEDED}) | _FAILURES,
        ConditionType.SUSPENDED: frozenset({Reason.SUSPENDED_BY_USER, Reason.RESUMED, Reason.NOT_SUSPENDED}),
        ConditionType.STALLED: frozenset({Reason.PROGRESSING, Reason.NO_PROGRESS, Reason.CLUSTER_REFUSED}),
        ConditionType.DEGRADED: frozenset(
            {Reason.HEALTHY, Reason.CHECKPOINT_REJECTED, Reason.SLOW_RANK, Reason.TRACKER_FAILED}
        ),
    }
)
"""Which reasons each condition type can have."""

_INITIAL: Final = (
    Finding(ConditionType.ACCEPTED, "True", Reason.ACCEPTED),
    Finding(ConditionType.INSPECTED, "Unknown", Reason.INSPECTING),
    Finding(ConditionType.PLANNED, "Unknown", Reason.WAITING_FOR_INSPECTION),
    Finding(ConditionType.PODS_SCHEDULED, "Unknown", Reason.WAITING_FOR_PLAN),
    Finding(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PLAN),
    Finding(ConditionType.PUBLISHED, "False", Reason.WAITING_FOR_TRAINING),
    Finding(ConditionType.COMPLETE, "False", Reason.IN_PROGRESS),
    Finding(ConditionType.FAILED, "False", Reason.IN_PROGRESS),
    Finding(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED),
    Finding(ConditionType.STALLED, "False", Reason.PROGRESSING),
    Finding(ConditionType.DEGRADED, "False", Reason.HEALTHY),
)
"""Every known condition is there from the first status on: absence could not be told from an old operator."""


def holds(status: FineTuneJobStatus, kind: ConditionType) -> bool:
    """Whether the condition of that type is True."""
    condition = status.condition(kind)
    return condition is not None and condition.status == "True"


def is_finished(status: FineTuneJobStatus) -> bool:
    """Whether the job is Complete or Failed for good."""
    return holds(status, ConditionType.COMPLETE) or holds(status, ConditionType.FAILED)


def fitting(kind: ConditionType, reason: Reason) -> Reason:
    """Return the reason, or TrainerError for one that this condition cannot have: pods may run a newer image or a user's own."""
    return reason if reason in REASONS_OF[kind] else Reason.TRAINER_ERROR


def set_condition(previous: Condition | None, finding: Finding, generation: int, now: datetime) -> Condition:
    """Return the condition that a finding makes of the previous one of its type."""
    unmoved = previous is not None and previous.status == finding.status
    return Condition(
        type=finding.type,
        status=finding.status,
        reason=finding.reason,
        message=shortened(finding.message),
        last_transition_time=previous.last_transition_time if previous is not None and unmoved else text_of(now),
        observed_generation=generation,
    )


def merge(
    previous: Iterable[Condition], findings: Iterable[Finding], generation: int, now: datetime
) -> list[Condition]:
    """Return all conditions in the order of a job's way; a type without a finding keeps what it said."""
    before = {condition.type: condition for condition in previous}
    said = {finding.type: finding for finding in findings}
    merged = []
    for initial in _INITIAL:
        old = before.get(initial.type)
        kept = Finding(old.type, old.status, old.reason, old.message) if old else initial
        merged.append(set_condition(old, said.get(initial.type, kept), generation, now))
    return merged


def shortened(text: str) -> str:
    """Return the text, cut where a status would grow too large."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 2]} …"
