"""The values that `desired_state` takes from the installation and gives to the reconciler; kept apart so that every policy can import them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from finetune_operator.api.history import History
from finetune_operator.api.inspection import InspectionReport, ProgressEndpoint
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import Limits
from finetune_operator.planner.replan import RanOut


class Planner(Protocol):
    """What makes the plan; injected, so that policies are tested without the planner's arithmetic."""

    def __call__(
        self,
        spec: FineTuneJobSpec,
        inspection: InspectionReport,
        inventory: Inventory,
        *,
        history: History,
        limits: Limits,
        failure: RanOut | None = None,
    ) -> Plan | PlanError:
        """Return the plan, or why there is none; after a `failure` one that takes less GPU memory, with the same global batch."""
        ...


@dataclass(frozen=True)
class RenderSettings:
    """What the operator's installation decides about the children."""

    inspect_image: str
    trainer_image: str
    progress: ProgressEndpoint
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    node_cache_path: str = ""
    """The folder on every node in which jobs may keep models (hostPath); empty allows none."""


@dataclass(frozen=True)
class ChildReference:
    """An object to delete."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True)
class JobEvent:
    """A Kubernetes Event about the job. Never row content or secrets."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True)
class Desired:
    """Objects to apply in this order, objects to delete, and the one status write.

    Of a batch Job that exists only `spec.suspend` is carried over: its template is immutable, and a newer operator may render another one.
    """

    status: FineTuneJobStatus
    """Without `progress`, which belongs to another field manager."""
    objects: tuple[dict[str, Any], ...] = ()
    deletions: tuple[ChildReference, ...] = ()
    events: tuple[JobEvent, ...] = ()
    requeue_after: float | None = None
    """Seconds until the job must be looked at again although nothing happens."""
    delete_job: bool = False
    """run.ttlAfterFinished is over."""
