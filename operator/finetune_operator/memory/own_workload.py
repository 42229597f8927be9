"""What the trainer of this project makes of a job: its number formats and habits, where the estimator knows those of other programs as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing, Objective, Offload, Strategy, loads_once
from finetune_operator.api.methods import IA3_TARGETS, LORA_METHODS, VIRTUAL_TOKEN_METHODS, Method
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.tuning import LoraVariant
from finetune_operator.memory.architecture import Architecture, Head
from finetune_operator.memory.between_steps import live_bytes
from finetune_operator.memory.kinds import (
    FLOAT32,
    FLOAT32_MASTER,
    Goal,
    Numerics,
    Optimizer,
    Quantization,
    Teacher,
    Tuning,
)
from finetune_operator.memory.workload import Workload


def numerics_of(spec: FineTuneJobSpec) -> Numerics:
    """Return the number formats that the trainer uses for `spec`.

    bf16: float32 trained weights under autocast (16 bytes per parameter) beside a base in bfloat16. Also of qlora: TRL 1.16 casts the adapters
    of a quantised model to bfloat16, and the trainer casts them back (modeling.py, `restore_float_masters`).
    """
    return FLOAT32 if spec.training.precision == "fp32" else FLOAT32_MASTER


GOALS: Final[Mapping[Objective, Goal]] = MappingProxyType(
    {
        Objective.SFT: Goal.SFT,
        Objective.PRETRAIN: Goal.SFT,
        Objective.DPO: Goal.DPO,
        Objective.ORPO: Goal.ORPO,
        Objective.KTO: Goal.KTO,
        Objective.REWARD: Goal.REWARD,
        Objective.CLASSIFICATION: Goal.CLASSIFICATION,
        Objective.TOKEN_CLASSIFICATION: Goal.CLASSIFICATION,
        Objective.EMBEDDING: Goal.EMBEDDING,
        Objective.GRPO: Goal.GRPO,
        Objective.RLOO: Goal.RLOO,
        Objective.RERANKER: Goal.CLASSIFICATION,
        Objective.DISTILL: Goal.SFT,
    }
)
"""Which sequences, models and heads of each objective are in memory."""


HEADS: Final[Mapping[Objective, Head]] = MappingProxyType(
    {
        Objective.CLASSIFICATION: Head.SEQUENCE_CLASSIFICATION,
        Objective.TOKEN_CLASSIFICATION: Head.TOKEN_CLASSIFICATION,
        Objective.EMBEDDING: Head.NONE,
        Objective.RERANKER: Head.SEQUENCE_CLASSIFICATION,
    }
)
"""What stands behind the last layer; objectives that are not here keep the head of a language model."""


def as_trained_here(workload: Workload) -> Workload:
    """Return the workload with the trainer's habits: how it loads, and what it makes of FSDP 2 (arguments.py, modeling.py, job_trainer.py)."""
    return replace(workload, **_habits(workload.numerics, workload.strategy, workload.quantization))


def _habits(numerics: Numerics, strategy: Strategy, quantization: Quantization) -> dict[str, Any]:
    is_quantised = quantization is not Quantization.NONE
    is_fsdp = strategy is Strategy.FSDP
    return {
        "numerics": _with_reduction_of_masters(numerics) if is_fsdp and numerics.autocast else numerics,
        "syncs_every_batch": is_fsdp,
        "splits_root": True,
        "freezes_tied_head": True,
        "loads_whole": is_quantised and strategy in (Strategy.FSDP, Strategy.ZERO3),
        "efficient_loading": loads_once(strategy, quantized=is_quantised),
    }


@lru_cache(maxsize=64)
def _with_reduction_of_masters(numerics: Numerics) -> Numerics:
    return replace(numerics, reduces=numerics.trained)


def tuning_of(spec: FineTuneJobSpec) -> Tuning:
    """Return what is trained; rsLoRA is LoRA with another scale."""
    if spec.tuning.method not in LORA_METHODS:
        return Tuning(spec.tuning.method.value)
    return Tuning.DORA if spec.tuning.adapter.variant is LoraVariant.DORA else Tuning.LORA


def quantization_of(spec: FineTuneJobSpec) -> Quantization:
    """Return how frozen weights are stored; FP4 takes the same bits as NF4 (bitsandbytes 0.50: a float32 scale per 64 weights)."""
    if spec.tuning.method is not Method.QLORA:
        return Quantization.NONE
    return Quantization.NF4_DOUBLE if spec.tuning.storage.double_quantization else Quantization.NF4


def _targets(spec: FineTuneJobSpec, model_type: str) -> tuple[str, ...]:
    if spec.tuning.method is not Method.IA3:
        return tuple(spec.tuning.adapter.targets)
    found = IA3_TARGETS[model_type]
    return (*found.outputs, *found.inputs)


def workload_of(
    spec: FineTuneJobSpec,
    *,
    sequence_length: int,
    micro_batch: int,
    accumulation: int,
    strategy: Strategy,
    processes: int,
    checkpointing: Checkpointing,
    offload: Offload = Offload.NONE,
    packed: bool = False,
    model_type: str = "",
    precomputed_reference: bool = False,
    teacher: Teacher | None = None,
    reward_models: Sequence[Architecture] = (),
) -> Workload:
    """Return the workload of one process for `spec` and one way to split its global batch. A search makes a hundred of them.

    `model_type` decides what ia3 scales; `teacher` is that of objective distill, `reward_models` are those of the job's rewards.
    """
    numerics = numerics_of(spec)
    adapter, is_virtual = spec.tuning.adapter, spec.tuning.method in VIRTUAL_TOKEN_METHODS
    quantization = quantization_of(spec)
    return Workload(
        tuning=tuning_of(spec),
        quantization=quantization,
        optimizer=Optimizer(spec.training.optimizer.value),
        micro_batch=micro_batch,
        sequence_length=sequence_length,
        accumulation=accumulation,
        strategy=strategy,
        processes=processes,
        checkpointing=checkpointing,
        offload=offload,
        goal=GOALS[spec.objective],
        rank=spec.tuning.virtual_tokens_or_default if is_virtual else adapter.rank,
        targets=_targets(spec, model_type),
        dropout=adapter.dropout if spec.tuning.method in LORA_METHODS else 0.0,
        trained_layers=spec.tuning.unfrozen.layers if spec.tuning.method is Method.FREEZE else 0,
        trained_modules=tuple(spec.tuning.unfrozen.modules) if spec.tuning.method is Method.FREEZE else (),
        trained_fraction=spec.tuning.top_fraction if spec.tuning.method is Method.SPECTRUM else 0.0,
        noisy_embeddings=spec.training.neftune_alpha is not None,
        accelerator=spec.resources.accelerator,
        packing=packed,
        separates_rows=packed,
        kl_penalty=spec.training.kl_weight > 0,
        answer_tokens=spec.training.online.max_completion_length if spec.training.online else 0,
        evaluation_batch=micro_batch if spec.evaluates else 0,
        precomputed_reference=precomputed_reference,
        teacher=teacher,
        reward_parameters=sum(each.parameters for each in reward_models),
        scoring_width=max(
            (live_bytes(each, block, numerics.compute) for each in reward_models for block in each.blocks), default=0
        ),
        **_habits(numerics, strategy, quantization),
    )
