"""What of the model can be trained: modules that it has, and what PEFT refuses for experts."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.compatibility import LABELLING
from finetune_operator.api.methods import IA3_TARGETS, LORA_METHODS, Method
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.tuning import LoraVariant
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture
from finetune_operator.memory.blocks import TensorClass


def check_targets(spec: FineTuneJobSpec, architecture: Architecture) -> PlanError | None:
    """Return why what `spec` wants to train cannot be, with what to change; None where it can."""
    if spec.tuning.method is Method.FREEZE:
        return _check_layers(spec, architecture)
    if spec.tuning.method is Method.IA3:
        return _check_scaled(architecture)
    if spec.tuning.method not in LORA_METHODS:
        return None
    targets = tuple(spec.tuning.adapter.targets)
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


def _check_scaled(architecture: Architecture) -> PlanError | None:
    if architecture.model_type in IA3_TARGETS:
        return None
    return PlanError(
        reason=Reason.UNSUPPORTED_COMBINATION,
        message=f"tuning.method: ia3 is known for models of the types {', '.join(sorted(IA3_TARGETS))}, not for {architecture.model_type}; use "
        "tuning.method: lora",
    )


def _check_layers(spec: FineTuneJobSpec, architecture: Architecture) -> PlanError | None:
    wanted, there = spec.tuning.unfrozen.layers, architecture.layers
    if problem := _unknown_modules(spec.tuning.unfrozen.modules, architecture):
        return PlanError(reason=Reason.INVALID_SPEC, message=f"tuning.freeze.modules: {problem}")
    if wanted > there:
        problem = (
            f"last:{wanted} is more than the model's {there} layers; use last:{there} at most, or tuning.method: full"
        )
    elif not wanted and architecture.tied_embeddings and spec.objective not in LABELLING:
        problem = f"the head of {spec.model.uri} is its input embedding (tie_word_embeddings), which stays frozen; use last:N with some layers"
    else:
        return None
    return PlanError(reason=Reason.INVALID_SPEC, message=f"tuning.freeze.trainable: {problem}")


def _unknown_modules(modules: Sequence[str], architecture: Architecture) -> str:
    names = [name for name in architecture.linear_names() if name not in architecture.parameter_targets]
    unknown = [name for name in modules if name not in names]
    if not unknown:
        return ""
    return (
        f"{', '.join(unknown)} is no linear layer of a {architecture.model_type} model; use some of {', '.join(names)}"
    )


def _check_experts(spec: FineTuneJobSpec, architecture: Architecture, targets: tuple[str, ...]) -> PlanError | None:
    """What PEFT refuses where it adapts experts' parameters (api.model_types.EXPERTS_ADAPTED)."""
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
    adapter = spec.tuning.adapter
    is_dora = adapter.variant is LoraVariant.DORA
    if not adapted or not (adapter.dropout or is_dora):
        return None
    others = [name for name in architecture.linear_names() if name not in architecture.parameter_targets]
    # peft 0.21, lora.ParamWrapper: both raise ValueError.
    field, value, obstacle = (
        ("variant", "dora", "take no magnitudes; set it to lora or rslora")
        if is_dora
        else ("dropout", f"{adapter.dropout:g}", "work without dropout only; set it to 0")
    )
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=(
            f"tuning.lora.{field} is {value}, but adapters of a {architecture.model_type} model's experts {obstacle}, "
            f"or tuning.lora.targets to some of {', '.join(others)}"
        ),
    )
