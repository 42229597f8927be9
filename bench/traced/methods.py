"""Ways to train beside plain full training and LoRA, each on two small models, and further families with experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.memory.kinds import (
    FLOAT32_MASTER,
    PURE_BF16,
    AttentionKernel,
    Goal,
    LossKind,
    Optimizer,
    Quantization,
    Tuning,
)
from finetune_operator.memory.workload import Workload
from traced.cases import Case

SMALL: Final[dict[str, Any]] = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
TIED: Final[dict[str, Any]] = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 50304,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
MODELS: Final = {"llama": SMALL, "qwen3-tied": TIED}
_GROUPED: Final[dict[str, Any]] = {
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MIXTURES: Final[dict[str, dict[str, Any]]] = {
    "olmoe": {"model_type": "olmoe", **_GROUPED, "num_experts": 8},
    "granitemoe": {"model_type": "granitemoe", **_GROUPED, "num_local_experts": 8},
    "glm4-moe": {
        "model_type": "glm4_moe",
        **_GROUPED,
        "moe_intermediate_size": 256,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "head_dim": 64,
        "n_group": 1,
        "topk_group": 1,
    },
}
"""Families with experts that configurations.py does not draw."""

FULL: Final = Workload(
    tuning=Tuning.FULL,
    numerics=FLOAT32_MASTER,
    micro_batch=2,
    sequence_length=1024,
    packing=True,
    checkpointing=Checkpointing.NONE,
)
LORA: Final = replace(FULL, tuning=Tuning.LORA)
WHOLE: Final = LossKind.FULL_LOGITS


def method_cases() -> tuple[Case, ...]:
    """Return every way with every model, named `way on model`."""
    return tuple(
        Case(f"{name} on {model}", config, workload)
        for model, config in MODELS.items()
        for name, workload in _ways()
        # Of a tied model the oracle leaves the head frozen, the closed form trains it: no library says which.
        if not (workload.tuning is Tuning.FREEZE and config.get("tie_word_embeddings"))
    )


def mixture_cases() -> tuple[Case, ...]:
    """Return full training and LoRA, with and without checkpointing, of further families with experts."""
    ways = {"full": FULL, "lora": LORA, "lora-recomputed": replace(LORA, checkpointing=Checkpointing.FULL)}
    return tuple(
        Case(f"{name} on {model}", config, workload)
        for model, config in MIXTURES.items()
        for name, workload in ways.items()
    )


def _ways() -> Iterator[tuple[str, Workload]]:
    recomputed = {"checkpointing": Checkpointing.FULL}
    for goal in (Goal.DPO, Goal.REWARD):
        yield f"{goal}-full", replace(FULL, goal=goal, micro_batch=1)
        yield f"{goal}-lora", replace(LORA, goal=goal, micro_batch=1)
        yield f"{goal}-lora-padded-recomputed", replace(LORA, goal=goal, micro_batch=1, packing=False, **recomputed)
        yield f"{goal}-full-bf16", replace(FULL, goal=goal, micro_batch=1, numerics=PURE_BF16)
    for tuning in (Tuning.DORA, Tuning.IA3, Tuning.PROMPT):
        yield f"{tuning}-bf16", replace(LORA, tuning=tuning, numerics=PURE_BF16)
        yield f"{tuning}-autocast-recomputed", replace(LORA, tuning=tuning, loss=WHOLE, **recomputed)
    yield "dora-dropout", replace(LORA, tuning=Tuning.DORA, dropout=0.1)
    yield "freeze", replace(FULL, tuning=Tuning.FREEZE, trained_layers=1)
    yield "freeze-recomputed", replace(FULL, tuning=Tuning.FREEZE, trained_layers=2, numerics=PURE_BF16, **recomputed)
    for optimizer in (Optimizer.ADAFACTOR, Optimizer.SGD, Optimizer.ADAMW_FOREACH):
        yield f"{optimizer}-full", replace(FULL, optimizer=optimizer, micro_batch=1, sequence_length=256, **recomputed)
        yield f"{optimizer}-full-bf16", replace(FULL, optimizer=optimizer, numerics=PURE_BF16, micro_batch=1)
    yield "flash-padded", replace(LORA, attention=AttentionKernel.FLASH, packing=False)
    yield "eager", replace(LORA, attention=AttentionKernel.EAGER, sequence_length=512)
    qlora = replace(LORA, quantization=Quantization.NF4_DOUBLE)
    yield "qlora-dropout", replace(qlora, dropout=0.1)
    yield "qlora-float32-rest", replace(qlora, upcasts_rest=True, **recomputed)
