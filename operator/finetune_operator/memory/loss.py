"""Bytes of the tiles in which heads make logits: TRL 1.16's chunked head, Liger's, torchtune's and litgpt's."""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.workload import LossKind, Workload

FLOAT32: Final = 4

TILE_TOKENS: Final = 4096
"""trl/kernels/chunked_logprob.py: TOKEN_CHUNK_SIZE."""
TILE_WORDS: Final = 32768
"""trl/trainer/utils.py: _CHUNKED_LOGPROB_CHUNK_SIZE."""

HELD_CHUNK_TOKENS: Final = 128
"""litgpt, finetune/lora.py: lm_head_chunk_size, of every sequence of the batch."""

OUTPUT_CHUNKS: Final = 8
"""torchtune 0.5, modules/loss/ce_chunked_output_loss.py: num_output_chunks."""

TORCH_TILE_BYTES: Final = 29
"""Without Triton the backward of a tile is written in torch: seven float32 values and a boolean per logit at its highest point (_backward_tile)."""


def tile_bytes(vocabulary: int, hidden: int, workload: Workload) -> int:
    """Return the bytes of one tile of logits, and of the head's slice where it must be cast; 0 where the logits are whole."""
    if workload.loss is LossKind.LIGER:
        return liger_chunk_tokens(vocabulary, hidden, workload.tokens) * vocabulary * workload.numerics.compute
    if workload.loss is LossKind.OUTPUT_CHUNKS:
        width = workload.numerics.compute if workload.software.compiled_loss else FLOAT32
        return width * vocabulary * -(-workload.tokens // OUTPUT_CHUNKS)
    if workload.loss is LossKind.HELD_CHUNKS:
        return FLOAT32 * vocabulary * workload.sequences * min(workload.sequence_length, HELD_CHUNK_TOKENS)
    if workload.loss is not LossKind.CHUNKED:
        return 0
    compute = workload.numerics.compute
    tokens = min(workload.tokens, TILE_TOKENS)
    words = min(vocabulary, TILE_WORDS)
    is_cast = workload.trains_base and workload.autocasts
    head_slice = words * hidden * compute if is_cast else 0
    if workload.accelerator == "gpu":
        # The buffer always has 32,768 columns, however small the vocabulary.
        return tokens * TILE_WORDS * compute + head_slice
    # On the CPU only the touched part of the buffer is resident.
    return tokens * words * (compute + TORCH_TILE_BYTES) + head_slice


def liger_chunk_tokens(vocabulary: int, hidden: int, tokens: int) -> int:
    """Return how many tokens' logits Liger makes at a time: about as many bytes as the hidden states have.

    liger-kernel 0.5 to 0.8, fused_linear_cross_entropy_forward: next power of two of tokens / ceil(vocabulary / hidden).
    """
    rounds = -(-vocabulary // hidden)
    share = -(-tokens // rounds)
    return min(tokens, 1 << (share - 1).bit_length()) if share > 1 else 1


def head_calls(workload: Workload) -> int:
    """Return how often the output layer is called for a batch where the whole logits are made of chunks; 1 where it is called once."""
    if workload.loss is LossKind.OUTPUT_CHUNKS:
        return OUTPUT_CHUNKS
    return -(-workload.sequence_length // HELD_CHUNK_TOKENS) if workload.loss is LossKind.HELD_CHUNKS else 1
