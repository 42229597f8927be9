"""What is known of one job at one moment: the only input of `desired_state` beside the job itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, Limits

ComponentName = Literal["inspect", "train", "publish"]


@dataclass(frozen=True)
class ChildCondition:
    """One condition of a batch Job, such as Complete, Failed, FailureTarget or Suspended."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


@dataclass(frozen=True)
class ChildJob:
    """One batch Job that belongs to the job."""

    name: str
    component: ComponentName
    attempt: int | None
    """The attempt's number for train and publish; None for inspect."""
    created: datetime
    suspended: bool = False
    active: int = 0
    terminating: int = 0
    """Pods that were deleted and still run."""
    conditions: tuple[ChildCondition, ...] = ()
    completed: datetime | None = None
    spec_hash: str = ""
    deleting: bool = False

    def has_condition(self, kind: str) -> bool:
        """Whether the condition of that type is True."""
        return any(condition.type == kind and condition.status == "True" for condition in self.conditions)

    def condition(self, kind: str) -> ChildCondition | None:
        """Return the condition of that type if it is True, else None."""
        return next((c for c in self.conditions if c.type == kind and c.status == "True"), None)


@dataclass(frozen=True)
class PodReport:
    """One pod of a child Job, reduced to what explains the job's state."""

    name: str
    component: ComponentName
    attempt: int | None
    index: int | None
    """Completion index of the Indexed Job."""
    phase: str
    created: datetime
    scheduled: bool = False
    scheduled_at: datetime | None = None
    started: datetime | None = None
    """When the container began to run."""
    unschedulable: str = ""
    """The scheduler's words, while it finds no node."""
    waiting_reason: str = ""
    """Of the container: ImagePullBackOff, ErrImagePull, CreateContainerConfigError, …"""
    waiting_message: str = ""
    node: str = ""
    running: bool = False
    exit_code: int | None = None
    container_reason: str = ""
    """The kubelet's word for the end: Completed, Error, OOMKilled, …"""
    deleted: bool = False
    """Somebody has asked for its deletion. A Job's controller deletes running pods alone, so that it came before the pod's end."""
    termination: TerminationMessage | None = None
    finished: datetime | None = None
    disrupted: str = ""
    """The message of condition DisruptionTarget, when Kubernetes took the pod away."""


@dataclass(frozen=True)
class SourceJob:
    """A job that another one names by ftj://, as far as it matters to that one."""

    uid: str
    state: str
    """Its `status.state`."""
    message: str = ""
    result_uri: str | None = None
    """Of a job that is complete."""
    has_failed: bool = False
    waits_for: tuple[str, ...] = ()
    """Where it waits for this job in turn: the names on the way, the nearest first and this job's own last."""


@dataclass(frozen=True)
class Observed:
    """All that is known of one job now. A missing thing may also be one that the cache has not seen yet."""

    now: datetime
    inventory: Inventory
    limits: Limits = NO_LIMITS
    """What the namespace may take; read only while a plan may have to be made."""
    history: History = EMPTY_HISTORY
    sources: Mapping[str, SourceJob] = field(default_factory=dict)
    """The jobs that it names by ftj:// and that exist, by name."""
    children: tuple[ChildJob, ...] = ()
    pods: tuple[PodReport, ...] = ()
    """Pods of children that have not ended, or ended since the last status; listed on demand, so possibly empty."""
    inspection: InspectionReport | None = None
    """The report in ConfigMap `<job>-inspection`, or that of an equal job of the namespace."""
    inspection_age_seconds: float = 0.0
    inspection_owned: bool = True
    """False when the report is another job's; the reconciler then writes this job's own copy."""
    attempts: Mapping[int, AttemptFile] = field(default_factory=lambda: MappingProxyType({}))
    """plan.json of the ConfigMaps `<job>-<attempt>` that exist."""
    refusals: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Why pods of a child cannot be created (quota, admission), by the child's name; only its Events tell that."""
    foreign: tuple[str, ...] = ()
    """Kind/name of objects that bear a child's name and belong to someone else."""

    def child(self, component: ComponentName, attempt: int | None = None) -> ChildJob | None:
        """Return the child of that component (and attempt), or None."""
        return next((c for c in self.children if c.component == component and c.attempt == attempt), None)
