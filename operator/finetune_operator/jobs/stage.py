"""Where a job stands on its way, as one stage of it says: the common form of all policies' answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import InspectionStatus, PlanStatus, SourceStatus
from finetune_operator.jobs.conditions import Finding, fitting
from finetune_operator.jobs.decisions import ChildReference


@dataclass(frozen=True)
class Stage:
    """What one stage decided; what it leaves empty stays as it was."""

    state: JobState
    message: str
    findings: tuple[Finding, ...] = ()
    """A later finding of a type wins."""
    objects: tuple[dict[str, Any], ...] = ()
    deletions: tuple[ChildReference, ...] = ()
    requeue_after: float | None = None
    source: SourceStatus | None = None
    sources: tuple[SourceStatus, ...] = ()
    inspection: InspectionStatus | None = None
    plan: PlanStatus | None = None
    started: bool = False
    """The first attempt takes resources from now on: `status.startTime`."""
    ended: bool = False
    """The job is Complete or Failed: `status.completionTime`."""
    result_uri: str | None = None
    destinations: tuple[str, ...] = ()
    """Where else the result is."""
    creates: int | None = None
    """The number of the attempt whose objects are applied."""

    def after(self, findings: Iterable[Finding]) -> Stage:
        """Return this stage with what the stages before it have found."""
        return replace(self, findings=(*findings, *self.findings))


def stalled(message: str, reason: Reason = Reason.NO_PROGRESS) -> Finding:
    """Return the finding that the job waits for what does not move by itself."""
    return Finding(ConditionType.STALLED, "True", reason, message)


MOVING = Finding(ConditionType.STALLED, "False", Reason.PROGRESSING)


def failed(reason: Reason, message: str, *findings: Finding) -> Stage:
    """Return the end of a job that has failed for good; `findings` say more of the stage that failed."""
    reason = fitting(ConditionType.FAILED, reason)
    return Stage(
        state=JobState.FAILED,
        message=f"failed: {message}",
        findings=(
            Finding(ConditionType.PODS_SCHEDULED, "False", reason),
            Finding(ConditionType.RUNNING, "False", reason),
            Finding(ConditionType.COMPLETE, "False", reason),
            Finding(ConditionType.FAILED, "True", reason, message),
            MOVING,
            *findings,
        ),
        ended=True,
    )
