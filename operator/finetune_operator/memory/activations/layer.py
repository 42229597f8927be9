"""One layer's programme, put together from its parts."""

from __future__ import annotations

from functools import lru_cache

from finetune_operator.memory.activations.attention import attention
from finetune_operator.memory.activations.feed_forward import feed_forward
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.norms import norm
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Profile, Tape, Value
from finetune_operator.memory.blocks import Block


@lru_cache(maxsize=1024)
def layer_profile(hidden: int, block: Block, mode: LayerMode) -> Profile:
    """Return what one layer keeps, and the points of its forward and backward pass."""
    tape = Tape(accumulates=mode.accumulates)
    stream = tape.tensor(Size(hidden * mode.stream), mode.stream, differentiable=mode.input_differentiable)
    return tape.profile(_decoder_layer(tape, mode, block, stream))


def _decoder_layer(tape: Tape, mode: LayerMode, block: Block, stream: Value) -> Value:
    mixed = attention(tape, mode, block, norm(tape, mode, block.norm, stream))
    if block.residual_dropout:
        mixed = _dropped(tape, mixed)
    if block.sandwich_norms:
        mixed = norm(tape, mode, block.norm, mixed)
    stream = tape.add(stream, mixed)
    out = feed_forward(tape, mode, block.feed_forward, norm(tape, mode, block.norm, stream))
    if block.residual_dropout:
        out = _dropped(tape, out)
    if block.sandwich_norms:
        out = norm(tape, mode, block.norm, out)
    return tape.add(stream, out)


def _dropped(tape: Tape, value: Value) -> Value:
    return tape.apply((value,), value.size, value.width, also_saves=Size(value.size.token // value.width))
