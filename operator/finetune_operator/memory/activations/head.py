"""The programme behind the last layer: last norm, output head and loss. Its `Size.pair` counts the tokens of one tile (loss.py), not pairs of them.

Whole logits (transformers' ForCausalLMLoss): compute-type logits, their float32 copy, log-softmax, and backwards two gradients of it: 12
bytes per logit at the highest point. transformers up to 4.45 widened the logits inside the model and shifted a copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.linear import linear, product, scaled_output
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.norms import norm
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import NOTHING, Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.blocks import NormKind
from finetune_operator.memory.kinds import LossKind
from finetune_operator.memory.loss import TILE_WORDS, TORCH_TILE_BYTES, words_of_two_slices

FLOAT32 = 4
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
    quantized_transform: bool = False
    """bitsandbytes replaces that layer too."""
    first_token: bool = False
    """Labels of an encoder: made of every sequence's first token alone."""
    widens: bool = True
    """The loss casts logits to float32; BERT and its kind compute it in the compute type."""
    scaled: bool = False
    capped: bool = False
    calls: int = 1
    """Parts of the tokens that the output layer is called for, one after another."""


def head_profile(head: OutputHead, mode: LayerMode, loss: LossKind, *, several_tiles: bool = False) -> Profile:
    """Return what last norm, head and loss keep, and the points of their forward and backward pass."""
    first = _played(head, replace(mode, accumulates=False), loss, several_tiles=several_tiles)
    return first.again() if mode.accumulates else first


@lru_cache(maxsize=2048)
def _played(head: OutputHead, mode: LayerMode, loss: LossKind, *, several_tiles: bool) -> Profile:
    tape = Tape()
    stream = tape.tensor(Size(head.hidden * mode.stream), mode.stream, differentiable=True)
    if head.final_norm:
        stream = norm(tape, mode, head.norm, stream, weighted=head.norm_weights)
    if head.first_token:
        return tape.profile(tape.apply((stream,), NOTHING, stream.width))
    if head.transform:
        stream = linear(tape, replace(mode, quantized=head.quantized_transform), stream, "dense", head.hidden)
        stream = tape.apply((stream,), stream.size, stream.width, saves=(stream,))
        stream = norm(tape, mode, NormKind.LAYER, stream)
    match loss:
        case LossKind.CHUNKED:
            end = _chunked(tape, mode, head, stream, several_tiles=several_tiles)
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
    out = _cross_entropy(tape, mode, head, logits, loss)
    # The model's outputs, until the loss has been computed; up to 4.45 `logits = logits.float()` let go of the narrow ones.
    let_go = mode.software.shifts_logits and not mode.software.keeps_narrow_logits
    tape.hold(stream, *(() if let_go else (logits,)))
    return out


def _cross_entropy(tape: Tape, mode: LayerMode, head: OutputHead, logits: Value, loss: LossKind) -> Value:
    software, wide = mode.software, logits
    if software.compiled_loss:
        return tape.apply((logits,), TARGETS, 8, saves=(logits,))
    if not software.keeps_compute_logits and (head.widens or mode.autocasts):
        wide = tape.cast(logits, FLOAT32)
    whole = wide
    if software.shifts_logits:
        wide = tape.apply((whole,), whole.size, whole.width)
        tape.hold(whole)
    if loss is LossKind.FUSED_LOGITS:
        # The gradient overwrites the logits that the kernel has kept.
        return tape.apply((wide,), TARGETS, 8, saves=(wide,), transient=NOTHING.minus(wide.size))
    soft = tape.apply((wide,), wide.size, wide.width, saves_output=True)
    tape.hold(whole, wide)
    return tape.apply((soft,), TARGETS, 8, saves=(soft,))


def _logits(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    if mode.software.normalises_head and not mode.trains_weights:
        weights = head.hidden * head.vocabulary
        normal, cast = Size(fixed=FLOAT32 * weights), Size(fixed=mode.compute * weights)
        size = Size(head.vocabulary * mode.compute)
        return tape.apply((stream,), size, mode.compute, also_saves=cast, forward_transient=normal)
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
    each = logits.width if mode.software.compiled_loss else FLOAT32
    chunk = Size(pair=head.vocabulary * each)
    if mode.software.compiled_loss:
        return tape.apply((logits,), TARGETS, 8, saves=(logits,), transient=chunk.minus(logits.size))
    wide = Size(logits.size.token // logits.width * FLOAT32)
    transient = chunk.times(2).minus(logits.size)
    return tape.apply((logits,), TARGETS, 8, also_saves=wide, transient=transient, forward_transient=chunk)


def _held_chunks(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value) -> Value:
    """Record litgpt's loss: a list of chunks in the compute type, the same in float32 (Fabric's convert_output), a log-softmax of each.

    The loop holds the float32 list. Backwards each chunk's gradient takes the place of its log-softmax, and its narrow copy that of the
    gradient. With `keeps_graph` the caller counts the list of the micro-batch before to every point of the forward pass; it is gone when
    the model has returned this one.
    """
    logits = _logits(tape, mode, head, stream)
    wide, chunk = Size(logits.size.token // logits.width * FLOAT32), Size(pair=head.vocabulary * FLOAT32)
    as_float = tape.apply((logits,), wide, FLOAT32, transient=chunk.minus(logits.size))
    return tape.apply(
        (as_float,),
        TARGETS,
        8,
        holds=(as_float,),
        also_saves=wide,
        transient=chunk.times(2).minus(wide),
        forward_transient=NOTHING.minus(wide) if mode.software.keeps_graph else NOTHING,
    )


def _chunked(tape: Tape, mode: LayerMode, head: OutputHead, stream: Value, *, several_tiles: bool) -> Value:
    """Record TRL 1.16's fused head: tiles of logits are made again in the backward pass, gradients are summed up in float32.

    What is stored in another type is cast piece by piece: a tile's hidden states, and slices of the head's weight.
    """
    width = head.hidden * head.vocabulary
    picked = tape.apply((stream,), stream.size, stream.width)  # the positions that have a label
    stored = mode.trained if mode.trains_weights else mode.base
    row = head.hidden * mode.compute if stored != mode.compute else 0
    # Of hidden states, too, the tile before is freed only when the next one's are there.
    tiles = 2 if several_tiles and not row else 1
    hidden = Size(pair=tiles * head.hidden * mode.compute) if stream.width != mode.compute else NOTHING
    tile = _tile(mode, head.vocabulary).plus(hidden)
    wide = Size(FLOAT32 * head.hidden)
    gradients: tuple[int, ...] = ()
    slices = words_of_two_slices(head.vocabulary, several_tiles=several_tiles) * row
    transient = tile.plus(wide).plus(Size(fixed=slices))
    if mode.trains_weights:
        gradients = (width * mode.trained,)
        transient = transient.plus(Size(fixed=FLOAT32 * width))
        if mode.trained == FLOAT32:
            transient = transient.minus(Size(fixed=FLOAT32 * width))  # handed out as it is
    if stream.width == FLOAT32:
        transient = transient.minus(wide)
    out = tape.apply(
        (picked,),
        TARGETS,
        8,
        saves=(picked,),
        also_saves=LOG_PROBABILITIES,
        transient=transient,
        weight_gradients=gradients,
        forward_transient=tile.plus(Size(fixed=min(head.vocabulary, TILE_WORDS) * row)),
    )
    tape.hold(stream)
    return out


def _tile(mode: LayerMode, vocabulary: int) -> Size:
    """The buffer always has 32,768 columns, however small the vocabulary; on the CPU only the touched part of it is resident."""
    if mode.on_cpu:
        return Size(pair=min(vocabulary, TILE_WORDS) * (mode.compute + TORCH_TILE_BYTES))
    return Size(pair=TILE_WORDS * mode.compute)


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
        forward_transient=Size(pair=head.vocabulary * mode.compute).plus(product_of_chunk),
    )
