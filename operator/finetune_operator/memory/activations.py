"""Bytes that the forward pass keeps for the backward pass, per layer and token, counted tensor by tensor.

Symbols: h hidden size, q and k output widths of the query and key projections, f MLP width, n heads, r LoRA rank, c bytes of the compute
type. Read from transformers 5.23's modeling files and PEFT 0.21's LoRA layer, SDPA attention. For a Llama layer in bfloat16 the sums are:

- full:                                 16h + 4q + 4k + 8f + 4n + 8
- LoRA on all linear layers, bf16:      12h + 4q + 4k + 8f + 4n + 8 + 14r
- LoRA on all linear layers, autocast:  18h + 6q + 4k + 8f + 4n + 8 + 14r
- full, float32 + bf16 autocast:        26h + 4q + 4k + 8f + 4n + 8

A fake-tensor trace of Llama-3-8B agrees with each within 0.5 % of the whole peak (tests/memory/test_estimate.py).
"""

from __future__ import annotations

from finetune_operator.memory.architecture import ALL_LINEAR, Architecture
from finetune_operator.memory.blocks import Block, FeedForward, NormKind
from finetune_operator.memory.workload import Workload

STATISTICS = 4
"""One float32 per token: what a norm keeps of its statistics, or attention per head (logsumexp)."""


def layer_activation_bytes(architecture: Architecture, block: Block, workload: Workload) -> int:
    """Return what one layer of this kind keeps per token until its backward pass, without gradient checkpointing (bytes)."""
    return (
        _norms(architecture, block, workload)
        + _inputs_of_linears(architecture, block, workload)
        + _attention(architecture, block, workload)
        + _feed_forward(architecture, block.feed_forward, workload)
        + _adapters(block, workload)
    )


def checkpoint_bytes_per_layer(architecture: Architecture, workload: Workload) -> int:
    """Return what one layer keeps per token with full checkpointing: its input, in the type of the residual stream (bytes)."""
    return architecture.hidden * residual_bytes(workload)


def residual_bytes(workload: Workload) -> int:
    """Bytes per element of the residual stream: float32 where a float32 embedding starts it and autocast leaves it so."""
    if workload.trains_base and workload.autocasts:
        return workload.numerics.trained
    return workload.numerics.compute


def _is_adapted(workload: Workload, name: str) -> bool:
    return workload.has_adapters and (workload.targets == (ALL_LINEAR,) or name in workload.targets)


def _norms(architecture: Architecture, block: Block, workload: Workload) -> int:
    """Inputs and intermediate values of the norms, and of the norms of queries and keys; their outputs count as inputs of linears."""
    per_element = _norm_bytes(block.norm, residual_bytes(workload), trains_weight=workload.trains_base)
    total = (4 if block.sandwich_norms else 2) * (per_element * architecture.hidden + STATISTICS)
    if block.attention.query_key_norm:
        compute = workload.numerics.compute
        total += _norm_bytes(block.norm, compute, trains_weight=workload.trains_base) * (
            block.attention.query_width + block.attention.key_width
        )
    return total


def _norm_bytes(kind: NormKind, stream: int, *, trains_weight: bool) -> int:
    """Bytes per element that one norm keeps of a stream with `stream` bytes per element.

    RMS: the input in float32 (a cast copy, or the stream itself), and for the weight's gradient the normalised value in the stream's type.
    Gemma's multiplies the weight in float32. LayerNorm keeps its input only.
    """
    if kind is NormKind.LAYER:
        return stream
    normalised = 4 if kind is NormKind.RMS_FLOAT32 else stream
    return 4 + (normalised if trains_weight else 0)


def _inputs_of_linears(architecture: Architecture, block: Block, workload: Workload) -> int:
    """The norms' outputs, which the first linears of attention and MLP read.

    One tensor serves all readers; under autocast a float32 value (full: the norm's output, LoRA: PEFT's cast to the adapter's type) is cast
    again for every reader. A frozen linear without adapter keeps no input. Dropout keeps one dropped copy per reader, and its mask.
    """
    hidden, compute = architecture.hidden, workload.numerics.compute
    total = 0
    for readers in (block.attention.inputs, block.feed_forward.inputs):
        if block.feed_forward.experts and readers is block.feed_forward.inputs:
            continue
        keeping = sum(workload.trains_base or _is_adapted(workload, name) for name in readers)
        copies = keeping if workload.autocasts or workload.dropout > 0 else min(keeping, 1)
        total += copies * compute * hidden
        total += keeping * hidden if workload.dropout > 0 else 0
    return total


def _attention(architecture: Architecture, block: Block, workload: Workload) -> int:
    """SDPA keeps query, key, value, its output and one statistic per head; the output is what the output projection reads."""
    attention, compute = block.attention, workload.numerics.compute
    query, key = attention.query_width, attention.key_width
    total = compute * (2 * query + 2 * key) + STATISTICS * attention.heads
    if _is_adapted(workload, attention.output):
        if workload.autocasts or workload.dropout > 0:
            total += compute * query
        if workload.dropout > 0:
            total += query
    if workload.has_padding_mask:
        # Rows of different length bring a mask; SDPA then takes no grouped heads, so keys and values are repeated for every head.
        total += 2 * compute * (query - key) + compute * workload.sequence_length
    if block.residual_dropout:
        total += 2 * architecture.hidden
    return total


def _feed_forward(architecture: Architecture, part: FeedForward, workload: Workload) -> int:
    """Gate, activated gate, up and their product; ungated: input and output of the activation. Experts: those that a token visits.

    The product (or the activation's output) is what the last linear reads: a frozen one without adapter does not keep it.
    """
    compute = workload.numerics.compute
    if part.experts:
        return part.experts_per_token * compute * (4 * part.width + 2 * architecture.hidden)
    keeps_product = workload.trains_base or _is_adapted(workload, part.output)
    inner = 3 if part.gated else 1
    if not part.fused_activation:
        inner += 3
    total = compute * part.width * (inner + int(keeps_product))
    if _is_adapted(workload, part.output) and workload.dropout > 0:
        total += part.width
    return total


def _adapters(block: Block, workload: Workload) -> int:
    """The output of every adapter's first matrix, which its second one reads: compute × rank per adapted linear."""
    adapted = sum(tensor.copies for tensor in block.tensors if tensor.linear and _is_adapted(workload, tensor.name))
    return workload.numerics.compute * workload.rank * adapted
