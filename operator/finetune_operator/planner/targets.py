"""Which modules adapters may be put on: names that the model has, and what PEFT refuses for experts."""

from __future__ import annotations

from finetune_operator.api.compatibility import Method
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture
from finetune_operator.memory.blocks import TensorClass


def check_targets(spec: FineTuneJobSpec, architecture: Architecture) -> PlanError | None:
    """Return why the adapters of `spec` cannot be made, with what to change; None where they can."""
    targets = tuple(spec.tuning.adapter.targets)
    if spec.tuning.method is Method.FULL:
        return None
    names = architecture.target_names()
    unknown = [target for target in targets if target not in (*names, ALL_LINEAR)]
    if unknown:
        return PlanError(
            reason=Reason.INVALID_SPEC,
            message=(
                f"tuning.lora.targets: {', '.join(unknown)} is no linear layer of a {architecture.model_type} model; "
                f"use some of {', '.join(names)}, or all-linear"
            ),
        )
    adapted = architecture.adapted(targets)
    routers = dict.fromkeys(
        tensor.name for tensor in adapted if tensor.subclassed and tensor.kind is TensorClass.ROUTER
    )
    if routers:
        # Its forward returns two tensors, which lora.Linear adds to: AttributeError in the first step (peft 0.21, transformers 5.23).
        return PlanError(
            reason=Reason.INVALID_SPEC,
            message=(
                f"tuning.lora.targets: PEFT cannot adapt the {', '.join(routers)} of a {architecture.model_type} model; "
                f"name others: {', '.join(name for name in names if name not in routers)}"
            ),
        )
    return _check_experts(spec, architecture, targets)


def _check_experts(spec: FineTuneJobSpec, architecture: Architecture, targets: tuple[str, ...]) -> PlanError | None:
    """What PEFT refuses where it adapts experts' parameters (api.compatibility.EXPERTS_ADAPTED)."""
    for tensor in architecture.tensors:
        missing = [name for name in tensor.targets if name not in targets]
        if targets != (ALL_LINEAR,) and 0 < len(missing) < len(tensor.targets):
            return PlanError(
                reason=Reason.INVALID_SPEC,
                message=(
                    f"tuning.lora.targets: {' and '.join(tensor.targets)} of a {architecture.model_type} model are one tensor; "
                    f"add {', '.join(missing)}, or leave both out"
                ),
            )
    adapted = [tensor for tensor in architecture.adapted(targets) if tensor.targets]
    dropout = spec.tuning.adapter.dropout
    if not adapted or not dropout:
        return None
    others = [name for name in architecture.linear_names() if name not in architecture.parameter_targets]
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=(
            f"tuning.lora.dropout is {dropout:g}, but adapters of a {architecture.model_type} model's experts work without dropout only; "
            f"set it to 0, or tuning.lora.targets to some of {', '.join(others)}"
        ),
    )
