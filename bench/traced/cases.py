"""What is compared: pairs of a small model and a workload, drawn from a seed; and a workload in the oracle's words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.kinds import (
    FLOAT32,
    FLOAT32_MASTER,
    PURE_BF16,
    AttentionKernel,
    Goal,
    LossKind,
    Numerics,
    Optimizer,
    Quantization,
    Tuning,
)
from finetune_operator.memory.workload import Workload
from finetune_trainer.oracle.setting import (
    Precision,
    TracedLoss,
    TracedMethod,
    TracedObjective,
    TracedOptimizer,
    TraceSetting,
)
from traced.configurations import DECODERS, ENCODERS, FAMILIES, MIXTURES

PRECISIONS: Final = {
    Precision.BF16: PURE_BF16,
    Precision.AUTOCAST: FLOAT32_MASTER,
    Precision.FLOAT32: FLOAT32,
    Precision.BF16_FLOAT32_ADAPTERS: Numerics(base=2, trained=4, compute=2, autocast=False),
}
OPTIMIZERS: Final = {
    Optimizer.ADAMW: TracedOptimizer.ADAMW_FUSED,
    Optimizer.ADAMW_FOREACH: TracedOptimizer.ADAMW_FOREACH,
    Optimizer.SGD: TracedOptimizer.SGD,
    Optimizer.ADAFACTOR: TracedOptimizer.ADAFACTOR,
}


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    config: dict[str, Any]
    workload: Workload


def setting_of(workload: Workload, config: dict[str, Any]) -> TraceSetting:
    """Return `workload` in the oracle's words.

    Raises:
        ValueError: the oracle does not trace such a workload.
    """
    # The oracle reduces in float32 wherever trained weights are float32.
    stored = replace(workload.numerics, reduces=None)
    precision = next((p for p, numerics in PRECISIONS.items() if numerics == stored), None)
    if precision is None or workload.optimizer not in OPTIMIZERS:
        raise ValueError(f"not traced: {workload.numerics}, {workload.optimizer}")
    is_encoder = config["model_type"] in ENCODERS
    objective = TracedObjective(workload.goal.value)
    if is_encoder and workload.goal is Goal.SFT:
        objective = TracedObjective.MASKED_LM
    return TraceSetting(
        method=_method(workload),
        precision=precision,
        micro_batch=workload.micro_batch,
        sequence_length=workload.sequence_length,
        accumulation=workload.accumulation,
        checkpointing=workload.checkpointing is Checkpointing.FULL,
        attention="eager" if workload.attention is AttentionKernel.EAGER else "sdpa",
        padding=workload.has_padding_mask,
        loss=TracedLoss(workload.loss.value),
        objective=objective,
        optimizer=OPTIMIZERS[workload.optimizer],
        rank=workload.rank,
        targets=workload.targets,
        dropout=workload.dropout,
        trained_layers=workload.trained_layers or 1,
        virtual_tokens=workload.rank,
        kbit_preparation=workload.upcasts_rest,
        processes=workload.shards,
        reshard=workload.reshards,
        splits_root=workload.splits_root,
    )


def _method(workload: Workload) -> TracedMethod:
    if workload.quantization is Quantization.NF4_DOUBLE and workload.tuning is Tuning.LORA:
        return TracedMethod.QLORA
    return TracedMethod(workload.tuning.value)


def draw_cases(seed: int, per_family: int) -> list[Case]:
    """Return `per_family` cases of every family; the same for the same seed."""
    cases = []
    for family, draw in FAMILIES.items():
        random = Random(f"{seed} {family}")
        for number in range(per_family):
            config = draw(random)
            cases.append(Case(f"{family}-{number}", config, _draw_workload(random, family)))
    return cases


def _draw_workload(random: Random, family: str) -> Workload:
    tuning, quantization = random.choice(
        (
            (Tuning.FULL, Quantization.NONE),
            (Tuning.FULL, Quantization.NONE),
            (Tuning.LORA, Quantization.NONE),
            (Tuning.LORA, Quantization.NONE),
            (Tuning.LORA, Quantization.NF4_DOUBLE),
        )
    )
    full = tuning is Tuning.FULL
    numerics = random.choice((PURE_BF16, FLOAT32_MASTER, FLOAT32_MASTER))
    micro_batch = random.choice((1, 2, 4))
    goal = Goal.CLASSIFICATION if family in ENCODERS and random.random() < 0.5 else Goal.SFT
    chunked = family not in ENCODERS and random.random() < 0.5
    return Workload(
        tuning=tuning,
        quantization=quantization,
        numerics=numerics,
        micro_batch=micro_batch,
        sequence_length=random.choice((512, 1024, 2048)),
        accumulation=random.choice((1, 1, 2)),
        strategy=Strategy.SINGLE,
        checkpointing=random.choice((Checkpointing.NONE, Checkpointing.FULL)),
        rank=random.choice((8, 16, 64)),
        targets=_targets(random, family) if not full else ("all-linear",),
        # PEFT 0.21 adapts fused experts without dropout only.
        dropout=random.choice((0.0, 0.0, 0.05)) if not full and family not in MIXTURES else 0.0,
        loss=LossKind.CHUNKED if chunked else LossKind.FULL_LOGITS,
        attention=AttentionKernel.EAGER if random.random() < 0.1 else AttentionKernel.SDPA,
        packing=random.random() < 0.5,
        optimizer=Optimizer.ADAMW_FOREACH if full and random.random() < 0.2 else Optimizer.ADAMW,
        goal=goal,
    )


def _targets(random: Random, family: str) -> tuple[str, ...]:
    """All linear layers, or query and value where the family has them under these names."""
    separate = family in DECODERS and family not in ("phi3", "gpt2", "gpt_neox", "falcon")
    return ("q_proj", "v_proj") if separate and random.random() < 0.3 else ("all-linear",)
