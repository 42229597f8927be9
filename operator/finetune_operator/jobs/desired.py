"""What should be: the result of `desired_state`, carried out by the reconciler without a further decision."""

from __future__ import annotations

from finetune_operator.jobs.decisions import (
    SUSPEND_FIELD_MANAGER,
    ChildReference,
    Desired,
    JobEvent,
    Planner,
    RenderSettings,
    Suspension,
)

__all__ = [
    "SUSPEND_FIELD_MANAGER",
    "ChildReference",
    "Desired",
    "JobEvent",
    "Planner",
    "RenderSettings",
    "Suspension",
]
