"""What should be: the result of `desired_state`, carried out by the reconciler without a further decision."""

from __future__ import annotations

from finetune_operator.jobs.decisions import ChildReference, Desired, JobEvent, Planner, RenderSettings

__all__ = ["ChildReference", "Desired", "JobEvent", "Planner", "RenderSettings"]
