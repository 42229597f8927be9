"""One layer's programme, put together from its parts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from finetune_operator.memory.activations.attention import attention
from finetune_operator.memory.activations.experts import experts
from finetune_operator.memory.activations.feed_forward import feed_forward
from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.norms import norm
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.activations.traced_layer import adapting_all, as_measured, as_traced, stand_in
from finetune_operator.memory.blocks import Block, NormPlacement


def layer_profile(hidden: int, block: Block, mode: LayerMode) -> Profile:
    """Return what one layer keeps, and the points of its forward and backward pass."""
    first = _played(hidden, block, replace(mode, accumulates=False))
    return first.again() if mode.accumulates else first


@lru_cache(maxsize=4096)
def _played(hidden: int, block: Block, mode: LayerMode) -> Profile:
    if block.traced is not None:
        # No programme describes this layer: its measured bytes scale those of a Llama layer of about the same size.
        like = stand_in(block)
        nearest = layer_profile(hidden, like, as_traced(mode, block.traced.rank))
        return as_measured(hidden, block.traced, layer_profile(hidden, like, adapting_all(mode)), nearest, mode)
    tape = Tape()
    stream = tape.tensor(Size(hidden * mode.stream), mode.stream, differentiable=mode.input_differentiable)
    record = _parallel if block.parallel else _in_turn
    out = record(tape, mode, block, stream)
    tape.hold(stream)  # the loop over the layers holds a layer's input until it returns
    return tape.profile(out)


def _in_turn(tape: Tape, mode: LayerMode, block: Block, stream: Value) -> Value:
    """Attention, then the feed-forward part, each with its norms and its addition to the stream."""
    for part in (attention, experts if block.feed_forward.experts else feed_forward):
        read = stream
        is_bare = part is attention and block.norms == 1  # ModernBERT's first layer
        if block.placement in (NormPlacement.BEFORE, NormPlacement.AROUND) and not is_bare:
            read = _norm(tape, mode, block, stream)
        out = _processed(tape, block, part(tape, mode, block, read))
        if block.placement in (NormPlacement.AROUND, NormPlacement.OUTPUT):
            out = _norm(tape, mode, block, out)
        stream = tape.add(stream, out)
        if block.placement is NormPlacement.SUM:
            stream = _norm(tape, mode, block, stream)
    return stream


def _parallel(tape: Tape, mode: LayerMode, block: Block, stream: Value) -> Value:
    """Attention and feed-forward part beside each other, with one norm for both or one each."""
    first = _norm(tape, mode, block, stream)
    mixed = _processed(tape, block, attention(tape, mode, block, first))
    second = first if block.norms == 1 else _norm(tape, mode, block, stream)
    out = _processed(tape, block, feed_forward(tape, mode, block, second))
    return tape.add(tape.add(out, mixed), stream)


def _norm(tape: Tape, mode: LayerMode, block: Block, value: Value) -> Value:
    return norm(tape, mode, block.norm, value, weighted=block.norm_weights)


def _processed(tape: Tape, block: Block, value: Value) -> Value:
    """Dropout and scaling of a part's output."""
    if block.residual_dropout:
        value = dropped(tape, value)
    if block.residual_scaled:
        value = tape.apply((value,), value.size, value.width)
    return value


def dropped(tape: Tape, value: Value) -> Value:
    """Record a dropout: it keeps a mask of one byte per element."""
    return tape.apply((value,), value.size, value.width, also_saves=Size(value.size.token // value.width))
