"""Sizes of the tiles in which heads make logits: TRL 1.16's chunked head, Liger's, torchtune's and litgpt's. Bytes: activations/head.py."""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.kinds import Goal, LossKind
from finetune_operator.memory.workload import TILE_TOKENS, Workload

TILE_WORDS: Final = 32768
"""trl/trainer/utils.py: _CHUNKED_LOGPROB_CHUNK_SIZE."""

FLOAT32: Final = 4

HELD_CHUNK_TOKENS: Final = 128
"""litgpt, finetune/lora.py: lm_head_chunk_size, of every sequence of the batch."""

OUTPUT_CHUNKS: Final = 8
"""torchtune 0.5, modules/loss/ce_chunked_output_loss.py: num_output_chunks."""

TORCH_TILE_BYTES: Final = 29
"""Without Triton the backward of a tile is written in torch: seven float32 values and a boolean per logit at its highest point (_backward_tile)."""


def tile_tokens(vocabulary: int, hidden: int, workload: Workload) -> int:
    """Return how many tokens' logits are made at a time; 0 where the logits are whole."""
    if workload.loss is LossKind.LIGER:
        return liger_chunk_tokens(vocabulary, hidden, workload.tokens)
    if workload.loss is LossKind.OUTPUT_CHUNKS:
        return -(-workload.tokens // OUTPUT_CHUNKS)
    if workload.loss is LossKind.HELD_CHUNKS:
        return workload.sequences * min(workload.sequence_length, HELD_CHUNK_TOKENS)
    return min(workload.tokens, TILE_TOKENS) if workload.loss is LossKind.CHUNKED else 0


def compared_bytes(hidden: int, workload: Workload) -> int:
    """Return what goal embedding holds to compare the rows of a global batch; 0 for others.

    In float32: the vectors of both texts of the process's own rows and their gradients, the same of all processes' rows, and for a tile of
    rows (sentence-transformers 6.2, CachedMultipleNegativesRankingLoss.calculate_loss) the cosines, the scaled ones and a gradient of each.
    """
    if workload.goal is not Goal.EMBEDDING:
        return 0
    own = workload.micro_batch * workload.accumulation
    everyone = own * workload.processes
    vectors = 2 * hidden * 2 * (own + (everyone if workload.processes > 1 else 0))
    return FLOAT32 * (vectors + 4 * min(own, 2 * workload.micro_batch) * everyone)


def words_of_two_slices(vocabulary: int, *, several_tiles: bool) -> int:
    """Return the rows of the head's weight that are cast at once in the chunked head's backward pass.

    `w_chunk = weight[start:end].to(...)`: the slice before is freed only when the next one has been made, across tiles too.
    """
    rest = vocabulary % TILE_WORDS or TILE_WORDS
    if vocabulary <= TILE_WORDS:
        return vocabulary * (2 if several_tiles else 1)
    return TILE_WORDS + (rest if vocabulary <= 2 * TILE_WORDS else TILE_WORDS)


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
