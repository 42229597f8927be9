"""Bytes that turning hidden states into a loss takes: TRL 1.16's chunked head, or the whole logits."""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload

TILE_TOKENS: Final = 4096
"""trl/kernels/chunked_logprob.py: TOKEN_CHUNK_SIZE."""
TILE_WORDS: Final = 32768
"""trl/trainer/utils.py: _CHUNKED_LOGPROB_CHUNK_SIZE."""

TORCH_TILE_BYTES: Final = 29
"""Without Triton the backward of a tile is written in torch: seven float32 values and a boolean per logit at its highest point (_backward_tile)."""
TORCH_FORWARD_TILE_BYTES: Final = 13
"""The forward of a tile in torch: three float32 values and a boolean per logit (_forward_tile)."""

FULL_LOGITS_BYTES: Final = 12
"""Per logit: compute-type logits, their float32 copy, log-softmax and its gradient overlap to 12 bytes at the highest point (fake-tensor trace)."""


def full_logits_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return 12 × vocabulary × tokens: the model's own loss."""
    return FULL_LOGITS_BYTES * architecture.vocabulary * workload.tokens


def chunked_loss_forward_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of one tile of logits, and of the head's slice where it must be cast."""
    return _tile(architecture, workload, TORCH_FORWARD_TILE_BYTES)


def chunked_loss_backward_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of one tile, and of the hidden states' gradient: float32 sum and its cast, tokens × hidden × (4 + compute)."""
    gradient = workload.tokens * architecture.hidden * (4 + workload.numerics.compute)
    return _tile(architecture, workload, TORCH_TILE_BYTES) + gradient


def _tile(architecture: Architecture, workload: Workload, torch_bytes: int) -> int:
    compute = workload.numerics.compute
    tokens = min(workload.tokens, TILE_TOKENS)
    words = min(architecture.vocabulary, TILE_WORDS)
    is_cast = workload.trains_base and workload.autocasts
    head_slice = words * architecture.hidden * compute if is_cast else 0
    if workload.accelerator == "gpu":
        # The buffer always has 32,768 columns, however small the vocabulary.
        return tokens * TILE_WORDS * compute + head_slice
    # On the CPU only the touched part of the buffer is resident.
    return tokens * words * (compute + torch_bytes) + head_slice
