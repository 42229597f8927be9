"""How the columns that all programs share are read; a value that nobody foresaw means what most rows mean."""

from __future__ import annotations

import re
from typing import Final

from accuracy.rows import Row
from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture, lora_parameters
from finetune_operator.memory.kinds import (
    FLOAT32,
    FLOAT32_MASTER,
    PURE_BF16,
    AttentionKernel,
    LossKind,
    Numerics,
    Optimizer,
    Quantization,
    Tuning,
)

Version = tuple[int, ...]


def version_of(row: Row, library: str) -> Version | None:
    """Return the version of `library` that the column `versions` states, such as (0, 43, 3); None when it states none."""
    found = re.search(rf"\b{re.escape(library)}\s*(?:==|=|-|\s)\s*(\d+(?:\.\d+)*)", row.text("versions").lower())
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def is_older(row: Row, library: str, than: Version) -> bool:
    """Return whether the row states a version of `library` below `than`."""
    version = version_of(row, library)
    return version is not None and version < than


TUNINGS: Final[tuple[tuple[str, Tuning], ...]] = (
    (r"freeze", Tuning.FREEZE),
    (r"spectrum", Tuning.SPECTRUM),
    (r"^(full|sft|pretrain|$)", Tuning.FULL),
    (r"dora", Tuning.DORA),
    (r"^(q?lora|rslora|lora\+.*|lora-.*)$", Tuning.LORA),
    (r"ia3", Tuning.IA3),
    (r"prefix", Tuning.PREFIX),
    (r"prompt|p-?tuning", Tuning.PROMPT),
    (r"bottleneck", Tuning.ADAPTER),
)
"""Pattern of the column method, what the estimator calls it; everything else is a small adapter that the generic rule predicts."""


def tuning_of(row: Row) -> Tuning:
    """Return what is trained."""
    return next((tuning for pattern, tuning in TUNINGS if re.search(pattern, row.method)), Tuning.OTHER)


def quantization_of(row: Row) -> Quantization:
    """Return how frozen weights are stored; `qlora` without a word more is bitsandbytes' NF4."""
    words = row.text("quant").lower()
    double = re.search(r"-dq|double", words) is not None
    for pattern, found in (
        (r"float8|fp8|f8|mxfp8", Quantization.NONE),
        (r"gptq.*4|awq|int4 \(gptq|gptq-int4", Quantization.INT4_GROUPED),
        (r"gptq.*8|int8 \(gptq", Quantization.INT8_GROUPED),
        (r"int8|8.?bit", Quantization.INT8),
        (r"nf4|bnb|4", Quantization.NF4_DOUBLE if double else Quantization.NF4),
    ):
        if re.search(pattern, words):
            return found
    return Quantization.NF4 if row.method == "qlora" else Quantization.NONE


def optimizer_of(row: Row) -> Optimizer:
    """Return the optimizer; torch's own fused AdamW where the column says nothing else."""
    words = row.text("optimizer").lower()
    for pattern, found in (
        (r"paged.*8|8.*paged", Optimizer.PAGED_ADAMW_8BIT),
        (r"paged", Optimizer.PAGED_ADAMW),
        (r"8.?bit", Optimizer.ADAMW_8BIT),
        (r"adafactor", Optimizer.ADAFACTOR),
        (r"muon", Optimizer.MUON),
        (r"sgd", Optimizer.SGD),
    ):
        if re.search(pattern, words):
            return found
    return Optimizer.ADAMW


def attention_of(row: Row) -> AttentionKernel:
    """Return the attention kernel; SDPA where the column says nothing."""
    words = row.text("attention").lower()
    if "flash_attention" in words or "flash-attn" in words:
        return AttentionKernel.FLASH
    return AttentionKernel.EAGER if words.startswith("eager") else AttentionKernel.SDPA


def offload_of(row: Row) -> Offload:
    """Return what lives in host memory."""
    words = row.text("cpu_offload").lower()
    if "param" in words:
        return Offload.PARAMETERS
    return Offload.OPTIMIZER if "optim" in words else Offload.NONE


def strategy_of(row: Row) -> Strategy:
    """Return how the row's GPUs share the states; a column that says nothing means one GPU, or DDP on several."""
    words = row.text("sharding").lower()
    for pattern, strategy in (
        (r"fsdp|hsdp", Strategy.FSDP),
        (r"zero-?3|stage ?3", Strategy.ZERO3),
        (r"zero-?2|stage ?2", Strategy.ZERO2),
        (r"zero-?1|stage ?1|distributed optimizer", Strategy.ZERO1),
        (r"device_map|pipeline", Strategy.SINGLE),
    ):
        if re.search(pattern, words):
            return strategy
    return Strategy.DDP if (row.whole("n_gpus") or 1) > 1 else Strategy.SINGLE


def processes_of(row: Row, strategy: Strategy) -> int:
    """Return over how many processes the states are spread, or replicated: those of a tensor-parallel group together, of one pipeline stage.

    `shard_degree` counts those that divide the same tensors, so each of them stands for a whole tensor-parallel group.
    """
    if strategy is Strategy.SINGLE:
        return 1
    degree = row.whole("shard_degree")
    if degree:
        return degree * (row.whole("tp") or 1)
    return max(1, (row.whole("n_gpus") or 1) // (row.whole("pp") or 1))


def numerics_of(row: Row, tuning: Tuning) -> Numerics:
    """Return bytes per element from the columns weight_dtype, trainable_dtype and compute_precision; what is not stated is bfloat16."""
    weights, trained = row.text("weight_dtype").lower(), row.text("trainable_dtype").lower()
    compute = row.text("compute_precision").lower()
    if tuning in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM):
        master = weights.startswith(("float32", "fp32")) or "fp32 master" in weights
        if not master:
            return PURE_BF16
        return FLOAT32_MASTER if re.search(r"bf16|fp16|bfloat16|float16|fp8", compute) else FLOAT32
    base = 4 if weights.startswith(("float32", "fp32")) else 2
    own = 2 if trained.startswith(("bf", "fp16", "float16")) else 4
    autocast = "autocast" in compute and "no autocast" not in compute
    return Numerics(base=base, trained=own, compute=2, autocast=autocast)


TARGET_WORDS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        r"\bquery\b|\bq\b|q_proj",
        ("q_proj", "qkv_proj", "query_key_value", "c_attn", "W_pack", "attn"),
    ),
    (r"\bkey\b|\bk\b|k_proj", ("k_proj", "qkv_proj", "query_key_value", "c_attn", "W_pack", "attn")),
    (r"\bvalue\b|\bv\b|v_proj", ("v_proj", "qkv_proj", "query_key_value", "c_attn", "W_pack", "attn")),
    (r"\bc_attn\b|default", ("c_attn", "qkv_proj", "query_key_value", "W_pack", "q_proj", "k_proj", "v_proj")),
    (r"o_proj|attn\.c_proj|\bprojection\b|\bo\b|\boutput\b", ("o_proj", "dense", "attn.c_proj")),
    (r"\bgate\b|gate_proj|\bw2\b|\bmlp\b", ("gate_proj", "gate_up_proj", "w2", "dense_h_to_4h", "fc1", "c_fc")),
    (r"\bup\b|up_proj|\bw1\b|\bmlp\b", ("up_proj", "gate_up_proj", "w1", "dense_h_to_4h", "fc1", "c_fc")),
    (r"\bdown\b|down_proj|\bmlp\b", ("down_proj", "dense_4h_to_h", "fc2", "mlp.c_proj")),
)
"""Word of the column target_modules, the modules that it means in one architecture or another."""


def targets_of(row: Row, architecture: Architecture) -> tuple[str, ...]:
    """Return the adapted modules in the architecture's own names; all linear ones when the column is empty or names none of them."""
    words = row.text("target_modules")
    names = architecture.linear_names()
    if re.search(r"target=ALL|\bALL\b|all.linear", words):
        return (ALL_LINEAR,)
    words = re.sub(r"\(no [^)]*\)|\+ .*", "", words)
    meant = {
        module for pattern, modules in TARGET_WORDS if re.search(pattern, words, re.IGNORECASE) for module in modules
    }
    found = tuple(name for name in names if name in meant or re.search(rf"\b{re.escape(name)}\b", words))
    if not found and "norm" in words:
        return tuple(re.split(r"[\s,]+", words.strip()))
    return found or (ALL_LINEAR,)


def rank_of(row: Row, architecture: Architecture, targets: tuple[str, ...]) -> int:
    """Return the rank with which LoRA trains as many parameters as the row; the column `rank` where they are not stated, 16 without both."""
    per_rank = lora_parameters(architecture, 1, targets)
    trainable = row.whole("trainable_params")
    if trainable and per_rank and trainable < architecture.parameters / 2:
        return max(1, round(trainable / per_rank))
    return row.whole("rank") or 16


def checkpointing_of(row: Row) -> Checkpointing:
    """Return whether activations are computed again: `1`, or words that say which part is."""
    words = row.text("grad_ckpt").lower()
    return Checkpointing.NONE if words in ("", "0", "none", "false", "no") else Checkpointing.FULL


def loss_of(row: Row) -> LossKind:
    """Return whether the logits exist as a whole."""
    words = row.text("fused_loss").lower()
    if words in ("", "0", "none", "false"):
        return LossKind.FULL_LOGITS
    if "liger" in words or "flce" in words or "linear" in words:
        return LossKind.LIGER
    return LossKind.CHUNKED if "chunk" in words else LossKind.FUSED_LOGITS


def has_varied_lengths(row: Row) -> bool:
    """Return whether batches are padded to their own longest sample, so that steps differ in length."""
    words = row.text("seq_kind").lower()
    return row.text("packing") != "1" and re.search(r"pad\w* to (its |the )?longest", words) is not None
