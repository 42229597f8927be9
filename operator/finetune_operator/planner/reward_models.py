"""Reward models beside the one that is trained (training.grpo.rewards, training.rloo.rewards): how large each is, so that the plan counts it."""

from __future__ import annotations

from typing import NamedTuple

from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import GIB, PlanError
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, Head, architecture_of
from finetune_operator.memory.own_workload import numerics_of


class RewardModels(NamedTuple):
    """What the planner knows of them."""

    architectures: tuple[Architecture, ...] = ()
    stored_bytes: int = 0
    """As they are downloaded."""
    assumptions: tuple[str, ...] = ()


def reward_models_of(
    spec: FineTuneJobSpec, inspection: InspectionReport | None, trained: Architecture
) -> RewardModels | PlanError:
    """Return the reward models of a job, or why one of them cannot be sized.

    Args:
        spec: The job's.
        inspection: What was learned about them; without that each is taken to be as large as the model that is trained.
        trained: That model.
    """
    named = spec.training.online.reward_models if spec.training.online else ()
    if not named:
        return RewardModels()
    if inspection is None or len(inspection.reward_models) != len(named):
        said = f"rewards: {', '.join(model.uri for model in named)} was not looked at; each is taken to be as large as the model"
        return RewardModels((trained,) * len(named), 2 * trained.parameters * len(named), (said,))
    found: list[Architecture] = []
    for facts in inspection.reward_models:
        architecture = architecture_of(facts.config, head=Head.SEQUENCE_CLASSIFICATION, labels=1)
        if isinstance(architecture, PlanError):
            message = f"rewards.model.uri: {facts.uri} cannot be sized beside the model: {architecture.message}"
            return PlanError(reason=architecture.reason, message=message)
        found.append(architecture)
    return RewardModels(tuple(found), sum(facts.weight_bytes for facts in inspection.reward_models))


def reward_model_reason(spec: FineTuneJobSpec, models: tuple[Architecture, ...]) -> str | None:
    """Return what they take in every process, in words; None where there are none."""
    if not models:
        return None
    size = numerics_of(spec).compute * sum(model.parameters for model in models)
    count = "a reward model" if len(models) == 1 else f"{len(models)} reward models"
    return f"rewards: {count}, whole and frozen in every process: {size / GIB:.2f} GiB of weights"
