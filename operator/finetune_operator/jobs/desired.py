"""What should be: the result of `desired_state`, carried out by the reconciler without a further decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_operator.api.inspection import ProgressEndpoint
from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import FineTuneJobStatus


@dataclass(frozen=True)
class RenderSettings:
    """What the operator's installation decides about the children."""

    inspect_image: str
    trainer_image: str
    progress: ProgressEndpoint
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()


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
    """Objects to apply in this order, objects to delete, and the one status write."""

    status: FineTuneJobStatus
    objects: tuple[dict[str, Any], ...] = ()
    deletions: tuple[ChildReference, ...] = ()
    events: tuple[JobEvent, ...] = field(default=())
    requeue_after: float | None = None
    """Seconds until the job must be looked at again although nothing happens."""
    delete_job: bool = False
    """run.ttlAfterFinished is over."""
