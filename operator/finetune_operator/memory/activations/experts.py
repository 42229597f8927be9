"""Experts: routing, the permutation of tokens, the products of all experts, and the way back; shared experts beside them.

transformers 5 (integrations/moe.py, grouped_mm_experts_forward): tokens are sorted by expert, so that every expert's product is a slice of
one grouped product over tokens × experts_per_token rows; experts are parameters, which neither adapters nor bitsandbytes touch.
transformers 4 ran the experts one after another as linear modules; the tensors of all of them together are the same.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.activations.attention import part_of
from finetune_operator.memory.activations.feed_forward import activation, mlp, multiplied
from finetune_operator.memory.activations.linear import linear, product
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape, Value
from finetune_operator.memory.blocks import Block, FeedForward
from finetune_operator.memory.workload import Tuning

FLOAT32 = 4
INDEX = 8


def experts(tape: Tape, mode: LayerMode, block: Block, value: Value) -> Value:
    """Record router, routed experts and shared expert."""
    part = block.feed_forward
    hidden = value.size.token // value.width
    score = _routed(tape, mode, part, value)
    out = (
        _looped(tape, mode, part, value, score) if part.experts_are_linear else _grouped(tape, mode, part, value, score)
    )
    if part.shared_width:
        shared = mlp(tape, mode, part, value, part.shared_width)
        if part.shared_gate:
            gate = linear(tape, mode, value, "shared_expert_gate", 1)
            gate = tape.apply((gate,), gate.size, gate.width, saves_output=True)
            shared = tape.apply((gate, shared), Size(hidden * shared.width), shared.width, saves=(gate, shared))
        out = tape.add(out, shared)
    return out


def _routed(tape: Tape, mode: LayerMode, part: FeedForward, value: Value) -> Value:
    """Record the router: logits, float32 probabilities of all experts, and the chosen ones with their indices."""
    logits = product(tape, mode, value, part.experts, trains=mode.trains_weights)
    wide = tape.cast(logits, FLOAT32)
    soft = tape.apply((wide,), wide.size, FLOAT32, saves_output=True)
    chosen = Size(FLOAT32 * part.experts_per_token)
    top = tape.apply((soft,), chosen, FLOAT32, also_saves=Size(INDEX * part.experts_per_token))
    score = tape.apply((top,), chosen, FLOAT32, saves=(top,))
    return tape.cast(score, mode.compute)


def _rows(part: FeedForward) -> int:
    return part.experts if part.every_expert_sees_every_token else part.experts_per_token


def _grouped(tape: Tape, mode: LayerMode, part: FeedForward, value: Value, score: Value) -> Value:
    """Record the grouped products: inputs of all experts are kept where they are trained."""
    rows, hidden, compute = _rows(part), value.size.token // value.width, mode.compute
    indices = Size(INDEX * rows)
    picked = tape.apply((value,), value.size.times(rows), value.width, also_saves=indices)
    order = tape.apply((score,), score.size, score.width, also_saves=indices)
    inner = (2 if part.gated else 1) * part.width
    joined = _grouped_product(tape, mode, part, picked, Size(rows * inner * compute), inner * hidden)
    if part.gated:
        half = Size(rows * part.width * compute)
        gate, up = tape.slice(joined, half), tape.slice(joined, half)
        joined = multiplied(tape, activation(tape, mode, gate, fused=part.fused_activation), up)
    else:
        joined = activation(tape, mode, joined, fused=part.fused_activation)
    out = _grouped_product(tape, mode, part, joined, Size(rows * hidden * compute), part.width * hidden)
    weighted = tape.apply((out, order), out.size, out.width, saves=(out, order), transient=out.size)
    back = tape.apply((weighted,), weighted.size, weighted.width, also_saves=indices)
    summed = tape.apply((back,), Size(hidden * back.width), back.width, transient=back.size)
    return tape.cast(summed, value.width)


def _grouped_product(tape: Tape, mode: LayerMode, part: FeedForward, value: Value, size: Size, weights: int) -> Value:
    read = tape.cast(value, mode.compute)
    if not mode.trains_weights:
        return tape.apply((read,), size, mode.compute)
    gradient = part.experts * weights * mode.trained if mode.keeps_gradients else 0
    if mode.trained == mode.compute:
        return tape.apply((read,), size, mode.compute, saves=(read,), weight_gradients=(gradient,))
    cast = tape.apply((), Size(fixed=part.experts * weights * mode.compute), mode.compute, weight_gradients=(gradient,))
    return tape.apply((read, cast), size, mode.compute, saves=(read, cast))


def _looped(tape: Tape, mode: LayerMode, part: FeedForward, value: Value, score: Value) -> Value:
    """Record all experts' linear modules, as one over the rows that all of them see together."""
    rows = _rows(part)
    indices = Size(INDEX * rows)
    many = replace(part, width=part.width * rows, experts=0)
    picked = tape.apply((value,), value.size.times(rows), value.width, also_saves=indices)
    inner = [_wide(tape, mode, picked, name, many.width) for name in part.inputs]
    joined = activation(tape, mode, inner[0], fused=part.fused_activation)
    if part.gated:
        up = inner[1] if len(inner) > 1 else part_of(tape, inner[0], many.width)
        joined = multiplied(tape, joined, up)
    out = _wide(tape, mode, joined, part.output, picked.size.token // picked.width)
    weighted = tape.apply((out, score), out.size, out.width, saves=(out, score), transient=out.size)
    return tape.apply((weighted,), value.size, value.width, also_saves=indices)


def _wide(tape: Tape, mode: LayerMode, value: Value, name: str, outputs: int) -> Value:
    """Record the product of every row with its expert's weight; widths are those of all rows of a token together."""
    read = tape.cast(value, mode.compute) if mode.autocasts else value
    adapted = mode.is_adapted(name) and mode.tuning in (Tuning.LORA, Tuning.OTHER)
    keeps = (read,) if mode.trains_weights or adapted else ()
    rank = Size(mode.rank * mode.compute) if adapted else Size()
    return tape.apply((read,), Size(outputs * read.width), read.width, saves=keeps, also_saves=rank)
