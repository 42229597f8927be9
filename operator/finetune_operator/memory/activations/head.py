"""The programme behind the last layer: last norm, output head and loss. Its `Size.pair` counts tiles of logits instead of pairs of tokens.

Whole logits (transformers' ForCausalLMLoss): compute-type logits, their float32 copy, log-softmax, and backwards two gradients of it: 12
bytes per logit at the highest point. transformers up to 4.45 widened the logits inside the model and shifted a copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from finetune_operator.memory.activations.linear import product, scaled_output
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.norms import norm
from finetune_operator.memory.activations.size import NOTHING, Size
from finetune_operator.memory.activations.tape import Profile, Tape, Value
from finetune_operator.memory.blocks import NormKind
from finetune_operator.memory.workload import LossKind

FLOAT32 = 4
TILE: Final = Size(pair=1)
"""One tile: loss.py has its bytes."""
LOG_PROBABILITIES: Final = Size(token=24)
"""TRL 1.16, ChunkedLogProbFunction: targets (8) and log-normaliser (4) are saved; running statistics on top while it runs."""
TARGETS: Final = Size(token=8)


@dataclass(frozen=True)
class OutputHead:
    """The part of an architecture that the head's programme depends on."""

    hidden: int
    vocabulary: int
    """Outputs: words, or labels of a classification."""
    norm: NormKind
    final_norm: bool = True
    norm_weights: bool = True
    transform: bool = False
    """Masked-language heads of encoders: a linear layer, gelu and LayerNorm before the vocabulary."""
    widens: bool = True
    """The loss casts logits to float32; BERT and its kind compute it in the compute type."""
    scaled: bool = False
    capped: bool = False
    calls: int = 1
    """Parts of the tokens that the output layer is called for, one after another."""


@lru_cache(maxsize=512)
def head_profile(head: OutputHead, mode: LayerMode, loss: LossKind) -> Profile:
    """Return what last norm, head and loss keep, and the points of their forward and backward pass."""
    tape = Tape(accumulates=mode.accumulates)
    stream = tape.tensor(Size(head.hidden * mode.stream), mode.stream, differentiable=True)
    if head.final_norm:
        stream = norm(tape, mode, head.norm, stream, weighted=head.norm_weights)
    if head.transform:
        stream = product(tape, mode, stream, head.hidden, trains=mode.trains_weights)
        stream = tape.apply((stream,), stream.size, stream.width, saves=(stream,))
        stream = norm(tape, mode, NormKind.LAYER, stream)
    match loss:
        case LossKind.CHUNKED:
            end = _chunked(tape, mode, head, stream)
        case LossKind.LIGER:
            end = _liger(tape, mode, head, stream)
        case LossKind.OUTPUT_CHUNKS:
            end = _output_chunks(tape, mode, head, stream)
        case LossKind.HELD_CHUNKS:
            end = _held_chunks(tape, mode, head, stream)
        case _:
            end = _whole(tape, mode, head, stream, loss)
    return tape.profile(end)


def _whole(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value, loss: LossKind) -> Value:
    logits = _logits(tape, mode, head, stream)
    software = mode.software
    if software.keeps_compute_logits or not (head.widens or mode.autocasts):
        soft = tape.apply((logits,), logits.size, logits.width, saves_output=True, forward_transient=logits.size)
        return tape.apply((soft,), TARGETS, 8, saves=(soft,))
    wide = tape.cast(logits, FLOAT32)
    held = logits.size if wide is not logits else NOTHING  # the model's output, until the loss has been computed
    if software.shifts_logits:
        held, wide = wide.size, tape.apply((wide,), wide.size, FLOAT32, forward_transient=wide.size)
    if loss is LossKind.FUSED_LOGITS:
        # The gradient overwrites the logits that the kernel has kept.
        handed_out = NOTHING.minus(wide.size)
        return tape.apply((wide,), TARGETS, 8, saves=(wide,), transient=handed_out, forward_transient=held)
    soft = tape.apply((wide,), wide.size, FLOAT32, saves_output=True, forward_transient=held.plus(wide.size))
    return tape.apply((soft,), TARGETS, 8, saves=(soft,))


def _logits(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    logits = product(
        tape, mode, stream, head.vocabulary, trains=mode.trains_weights, quantized=mode.quantized, calls=head.calls
    )
    if mode.software.scaled_outputs:
        logits = scaled_output(tape, mode, logits)
    if head.scaled:
        logits = tape.apply((logits,), logits.size, logits.width)
    if head.capped:
        logits = tape.apply((logits,), logits.size, logits.width)
        logits = tape.apply((logits,), logits.size, logits.width, saves_output=True)
        logits = tape.apply((logits,), logits.size, logits.width)
    return logits


def _output_chunks(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    """Record torchtune's CEWithChunkedOutputLoss: logits of every chunk exist, gradients take their places chunk by chunk.

    Compiled it keeps the logits; otherwise a float32 log-softmax of each chunk, made from a float32 copy.
    """
    logits = _logits(tape, mode, head, stream)
    wide = Size(logits.size.token // logits.width * FLOAT32)
    if mode.software.compiled_loss:
        return tape.apply((logits,), TARGETS, 8, saves=(logits,), transient=TILE.minus(logits.size))
    forward = logits.size.plus(TILE)
    transient = TILE.times(2).minus(logits.size)
    return tape.apply((logits,), TARGETS, 8, also_saves=wide, transient=transient, forward_transient=forward)


def _held_chunks(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    """Record litgpt's loss: a list of chunks in the compute type, the same in float32 (Fabric's convert_output), a log-softmax of each.

    The loop holds the float32 list. Backwards each chunk's gradient takes the place of its log-softmax, and its narrow copy that of the
    gradient. With `keeps_graph` the caller counts the list of the micro-batch before to every point of the forward pass; it is gone when
    the model has returned this one.
    """
    logits = _logits(tape, mode, head, stream)
    wide = Size(logits.size.token // logits.width * FLOAT32)
    as_float = tape.apply(
        (logits,),
        wide,
        FLOAT32,
        forward_transient=logits.size,
        transient=TILE.minus(logits.size),
    )
    return tape.apply(
        (as_float,),
        TARGETS,
        8,
        holds=(as_float,),
        also_saves=wide,
        transient=TILE.times(2).minus(wide),
        forward_transient=NOTHING.minus(wide) if mode.software.keeps_graph else NOTHING,
    )


def _chunked(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    """Record TRL 1.16's fused head: tiles of logits are made again in the backward pass, gradients are summed up in float32."""
    width = head.hidden * head.vocabulary
    picked = tape.apply((stream,), stream.size, stream.width)  # the positions that have a label
    wide = Size(FLOAT32 * head.hidden)
    gradients: tuple[int, ...] = ()
    transient = TILE.plus(wide)
    if mode.trains_weights:
        gradients = (width * mode.trained,)
        transient = transient.plus(Size(fixed=FLOAT32 * width))
        if mode.trained == FLOAT32:
            transient = transient.minus(Size(fixed=FLOAT32 * width))  # handed out as it is
    if stream.width == FLOAT32:
        transient = transient.minus(wide)
    return tape.apply(
        (picked,),
        TARGETS,
        8,
        saves=(picked,),
        also_saves=LOG_PROBABILITIES,
        transient=transient,
        weight_gradients=gradients,
        forward_transient=TILE.plus(picked.size),
    )


def _liger(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    """Record Liger's fused linear cross-entropy: gradients are made in the forward pass, a chunk of logits at a time, and kept."""
    width = head.hidden * head.vocabulary
    narrow = tape.cast(stream, mode.compute) if mode.autocasts else stream
    weights = width * mode.trained if mode.trains_weights else 0
    kept = narrow.size.plus(Size(fixed=weights))
    product_of_chunk = Size(fixed=width * (mode.compute + FLOAT32)) if mode.trains_weights else NOTHING
    return tape.apply(
        (narrow,),
        TARGETS,
        8,
        also_saves=kept,
        transient=NOTHING.minus(kept),
        weight_gradients=(weights,) if weights else (),
        forward_transient=TILE.plus(product_of_chunk).plus(narrow.size),
    )
