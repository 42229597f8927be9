"""The feed-forward part of a layer: one MLP, gated or not."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.activations.attention import part_of, scaled
from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.linear import linear
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.blocks import Block, FeedForward
from finetune_operator.memory.kinds import Tuning


def feed_forward(tape: Tape, mode: LayerMode, block: Block, value: Value) -> Value:
    """Record a block's MLP."""
    return mlp(tape, mode, block.feed_forward, value, block.feed_forward.width)


def mlp(tape: Tape, mode: LayerMode, part: FeedForward, value: Value, width: int) -> Value:
    """Record gate, activation, up, product and down projection; ungated: activation between two linear modules."""
    hidden = value.size.token // value.width
    if part.experts_are_adapted:
        mode = replace(mode, targets=())
    if not part.gated:
        inner = activation(tape, mode, linear(tape, mode, value, part.inputs[0], width), fused=part.fused_activation)
    elif len(part.inputs) > 1:
        gate = linear(tape, mode, value, part.inputs[0], width)
        gate = activation(tape, mode, gate, fused=part.fused_activation)
        inner = multiplied(tape, gate, linear(tape, mode, value, part.inputs[1], width))
    else:
        joined = linear(tape, mode, value, part.inputs[0], 2 * width)
        gate, up = part_of(tape, joined, width), part_of(tape, joined, width)
        inner = multiplied(tape, activation(tape, mode, gate, fused=part.fused_activation), up)
    if part.dropout:
        inner = tape.apply((inner,), inner.size, inner.width, also_saves=Size(inner.size.token // inner.width))
    if mode.tuning is Tuning.IA3:
        inner = scaled(tape, mode, tape.cast(inner, max(inner.width, mode.trained)), inner.width)
    out = linear(tape, mode, inner, part.output, hidden)
    tape.hold(value)
    return out


def multiplied(tape: Tape, left: Value, right: Value) -> Value:
    """Record an element-wise product, which keeps both factors."""
    return tape.apply((left, right), left.size, left.width, saves=(left, right))


def activation(tape: Tape, mode: LayerMode, value: Value, *, fused: bool) -> Value:
    """Record an activation function: one kernel that keeps its input, or GPT-2's gelu written out.

    `0.5 * x * (1 + tanh(√(2/π) * (x + 0.044715 * x³)))`; autocast runs the power, and with it nearly all of it, in float32.
    """
    if fused:
        return tape.apply((value,), value.size, value.width, saves=(value,))
    half = tape.apply((value,), value.size, value.width)
    wide = tape.cast(value, 4) if mode.autocasts else value
    cube = tape.apply((wide,), wide.size, wide.width, saves=(wide,), transient=wide.size.times(2))
    cube = tape.apply((cube,), wide.size, wide.width)
    inner = tape.apply((tape.add(value, cube),), wide.size, wide.width)
    bend = tape.apply((inner,), wide.size, wide.width, saves_output=True)
    shifted = tape.apply((bend,), wide.size, wide.width)
    return tape.apply((half, shifted), wide.size, wide.width, saves=(half, shifted))
