"""Experts: routing, the permutation of tokens, the products of all experts, and the way back; shared experts beside them.

transformers 5 (integrations/moe.py, grouped_mm_experts_forward): tokens are sorted by expert, so that every expert's product is a slice of
one grouped product over tokens × experts_per_token rows; experts are parameters, which bitsandbytes does not touch.
transformers 4 ran the experts one after another as linear modules; the tensors of all of them together are the same.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.activations.attention import part_of
from finetune_operator.memory.activations.feed_forward import activation, mlp, multiplied
from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.linear import linear, product
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.blocks import Block, FeedForward
from finetune_operator.memory.kinds import Tuning

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
    wide = tape.cast(value, FLOAT32) if part.router_float32 else value
    if part.experts_are_adapted and mode.is_adapted("gate"):
        hidden = value.size.token // value.width
        weight = _folded(tape, mode, part.experts, hidden, 1, 1)
        read = tape.cast(wide, mode.compute) if mode.autocasts else wide
        logits = tape.apply((read, weight), Size(part.experts * read.width), read.width, saves=(read, weight))
    else:
        logits = product(tape, mode, wide, part.experts, trains=mode.trains_weights)
    probabilities = tape.cast(logits, FLOAT32)
    soft = tape.apply((probabilities,), probabilities.size, FLOAT32, saves_output=True)
    chosen = Size(FLOAT32 * part.experts_per_token)
    top = tape.apply((soft,), chosen, FLOAT32, also_saves=Size(INDEX * part.experts_per_token))
    score = tape.apply((top,), chosen, FLOAT32, saves=(top,))
    return score if part.scores_float32 else tape.cast(score, logits.width)


def _rows(part: FeedForward) -> int:
    return part.experts if part.every_expert_sees_every_token else part.experts_per_token


def _grouped(tape: Tape, mode: LayerMode, part: FeedForward, value: Value, score: Value) -> Value:
    """Record the grouped products: inputs of all experts are kept where they are trained.

    Autocast leaves grouped products alone: they run in the weights' type, float32 where weights are trained under autocast.
    """
    rows, hidden = _rows(part), value.size.token // value.width
    indices = Size(INDEX * rows)
    picked = tape.apply((value,), value.size.times(rows), value.width, also_saves=indices)
    order = tape.apply((score,), score.size, score.width, also_saves=indices)
    inner = (2 if part.gated else 1) * part.width
    with tape.holding(picked):
        joined = _grouped_product(tape, mode, part, picked, hidden, inner, part.inputs)
        if part.gated:
            half = Size(joined.size.token // 2)
            gate, up = tape.split(joined, (half, half))
            joined = multiplied(tape, activation(tape, mode, gate, fused=part.fused_activation), up)
        else:
            joined = activation(tape, mode, joined, fused=part.fused_activation)
        out = _grouped_product(tape, mode, part, joined, part.width, hidden, (part.output,))
    width = max(out.width, order.width)
    size = Size(rows * hidden * width)
    # Backwards both factors' gradients are whole and of that width, before one is cast and the other summed up.
    transient = size.times(2).minus(out.size)
    with tape.holding(picked, out):
        weighted = tape.apply((out, order), size, width, saves=(out, order), transient=transient)
        with tape.holding(weighted):
            back = tape.apply((weighted,), size, width, also_saves=indices)
        wide = FLOAT32 if mode.autocasts else width
        with tape.holding(back):
            summed = tape.apply((back,), Size(hidden * wide), wide)
            return tape.cast(summed, value.width)


def _grouped_product(
    tape: Tape, mode: LayerMode, part: FeedForward, value: Value, inputs: int, outputs: int, names: tuple[str, ...]
) -> Value:
    """Record the product of every row with its expert's weight, trained, adapted or neither."""
    width = mode.trained if mode.trains_weights else mode.base
    read = tape.cast(value, width)
    size = Size(_rows(part) * outputs * width)
    if mode.trains_weights:
        gradient = part.experts * inputs * outputs * mode.trained if mode.keeps_gradients else 0
        return tape.apply((read,), size, width, saves=(read,), weight_gradients=(gradient,))
    if part.experts_are_adapted and all(mode.is_adapted(name) for name in names):
        weight = _folded(tape, mode, outputs, inputs, part.experts, len(names))
        return tape.apply((read, weight), size, width, saves=(read, weight))
    return tape.apply((read,), size, width)


def _folded(tape: Tape, mode: LayerMode, outputs: int, inputs: int, experts: int, names: int) -> Value:
    """Record PEFT's sum of experts' weights and their adapters' product (lora.ParamWrapper): a second tensor of the weights' size.

    Backwards its gradient is whole as well, before it becomes the adapters'. `names`: how many matrices the weight stands for; each
    has an adapter of the full rank.
    """
    rank = mode.rank * names * experts
    factors = [rank * inputs, rank * outputs]
    whole = Size(fixed=experts * inputs * outputs * mode.base)
    gradients = [elements * mode.trained if mode.keeps_gradients else 0 for elements in factors]
    if mode.trained == mode.base:
        return tape.apply((), whole, mode.base, weight_gradients=gradients)
    casts = [
        tape.apply((), Size(fixed=elements * mode.base), mode.base, weight_gradients=(gradient,))
        for elements, gradient in zip(factors, gradients, strict=True)
    ]
    return tape.apply(casts, whole, mode.base, saves=casts)


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
