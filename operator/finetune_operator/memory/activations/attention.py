"""Attention: projections, rotary embedding, and the kernels; what each keeps and what its backward pass makes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.linear import linear
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.norms import norm
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.activations.unspread import eager, mathematical, picked_heads
from finetune_operator.memory.blocks import Attention, Block, Latent, Positions
from finetune_operator.memory.kinds import AttentionKernel, Tuning

STATISTICS = 4
"""One float32 per token and head: the logsumexp of its scores."""


def attention(tape: Tape, mode: LayerMode, block: Block, value: Value) -> Value:
    """Record the attention part of a layer, from what it reads to the output projection."""
    part = block.attention
    if part.latent is not None:
        query, key, values = _from_latent(tape, mode, block, part.latent, value)
    else:
        query, key, values = _projections(tape, mode, part, value)
        if part.clipped:
            query, key, values = (tape.apply((v,), v.size, v.width, saves=(v,)) for v in (query, key, values))
        if part.query_key_norm:
            query = norm(tape, mode, block.norm, query, part.heads, weighted=part.query_key_norm_weights)
            key = norm(tape, mode, block.norm, key, part.kv_heads, weighted=part.query_key_norm_weights)
        if part.positions is Positions.ROTARY:
            plain = query, key
            query, key = rotated(tape, query, part.rotary_share), rotated(tape, key, part.rotary_share)
            tape.hold(*plain)
    mixed = attend(tape, mode, part, query, key, values)
    if mode.software.attends_prefix:
        mixed = tape.add(mixed, _from_prefix(tape, part, query))
    hidden = value.size.token // value.width
    out = linear(tape, mode, mixed, part.output, hidden)
    tape.hold(query, key, values, value)  # variables of the attention module and its input
    return out


def _from_prefix(tape: Tape, part: Attention, query: Value) -> Value:
    """Record the attention over a learned prefix, which is too short to count, and the product with its gate."""
    out = Size(part.output_width * query.width)
    statistics = Size(STATISTICS * part.heads)
    read = tape.apply(
        (query,), out, query.width, saves=(query,), saves_output=True, also_saves=statistics, weight_gradients=(0,)
    )
    return tape.apply((read,), out, query.width, saves=(read,), weight_gradients=(0,))


def _from_latent(tape: Tape, mode: LayerMode, block: Block, latent: Latent, value: Value) -> tuple[Value, Value, Value]:
    """Record multi-head latent attention as transformers trains it, with keys and values of all heads widened.

    The key's turned part is made once, and written behind each head's own (expand_kv of transformers 5.23).
    """
    part = block.attention
    if latent.query_rank:
        narrow = norm(tape, mode, block.norm, linear(tape, mode, value, part.inputs[0], latent.query_rank))
        query = linear(tape, mode, narrow, "q_b_proj", part.query_width)
    else:
        query = linear(tape, mode, value, part.inputs[0], part.query_width)
    turned = latent.rotary_width * part.heads
    plain_query, query = _parted(tape, query, turned)
    joined = linear(tape, mode, value, part.inputs[1], latent.key_value_rank + latent.rotary_width)
    narrow, turned_key = _parted(tape, joined, latent.rotary_width)
    narrow = norm(tape, mode, block.norm, narrow)
    query, turned_key = turned_pairs(tape, latent, query), turned_pairs(tape, latent, turned_key)
    query = tape.join((plain_query, query))
    wide = linear(tape, mode, narrow, "kv_b_proj", part.key_width - turned + part.value_width)
    plain_key, values = _parted(tape, wide, part.value_width)
    repeated_key = tape.view(turned_key, turned_key.size.times(part.heads))
    key = tape.apply((), Size(part.key_width * wide.width), wide.width)
    key = tape.write(tape.write(key, plain_key), repeated_key)
    return query, key, values


def _parted(tape: Tape, value: Value, last: int) -> tuple[Value, Value]:
    """Record a split of the last `last` elements from those before."""
    end = Size(last * value.width)
    first, second = tape.split(value, (value.size.minus(end), end))
    return first, second


def turned_pairs(tape: Tape, latent: Latent, value: Value) -> Value:
    """Record the rotary embedding of neighbouring elements: as complex numbers in float32 (DeepSeek V2), or in halves (V3)."""
    if latent.complex_rotary:
        wide = tape.cast(value, 4)
        return tape.cast(tape.apply((wide,), wide.size, 4), value.width)
    half = Size(value.size.token // 2)
    first, second = tape.slice(value, half), tape.slice(value, half)
    ends = [
        tape.add(tape.apply((one,), half, value.width), tape.apply((other,), half, value.width))
        for one, other in ((first, second), (second, first))
    ]
    return tape.join(ends)


def _projections(tape: Tape, mode: LayerMode, part: Attention, value: Value) -> tuple[Value, Value, Value]:
    if len(part.inputs) >= 3:
        query, key, values = (
            linear(tape, mode, value, name, width)
            for name, width in zip(part.inputs, (part.query_width, part.key_width, part.value_width), strict=False)
        )
        if mode.tuning is Tuning.IA3:
            key, values = scaled(tape, mode, key), scaled(tape, mode, values)
        return query, key, values
    joined = linear(tape, mode, value, part.inputs[0], part.query_width + part.key_width + part.value_width)
    if mode.tuning is Tuning.IA3:
        joined = scaled(tape, mode, joined)
    if part.picked_heads:
        return picked_heads(tape, part, joined)
    return (
        part_of(tape, joined, part.query_width),
        part_of(tape, joined, part.key_width),
        part_of(tape, joined, part.value_width),
    )


def part_of(tape: Tape, value: Value, width: int) -> Value:
    """Record a slice: it keeps the whole storage alive, and its gradient is widened to the whole again."""
    return tape.slice(value, Size(width * value.width))


def scaled(tape: Tape, mode: LayerMode, value: Value, width: int = 0) -> Value:
    """Record IA3's product with a trained vector, in the vector's type, and the cast back to `width` (0: the value's)."""
    wide = max(value.width, mode.trained)
    size = Size(*(part * wide // value.width for part in value.size))
    gradient = value.size.token // value.width * mode.trained
    product = tape.apply(
        (value,),
        size,
        wide,
        saves=(value,),
        transient=size,
        weight_gradients=(gradient if mode.keeps_gradients else 0,),
    )
    return tape.cast(product, width or value.width)


def rotated(tape: Tape, value: Value, share: float = 1.0) -> Value:
    """Record the rotary embedding `x * cos + rotate_half(x) * sin`: cosines and sines are shared by all layers, nothing else is kept."""
    whole = value
    if share < 1:
        value = part_of(tape, value, round(share * value.size.token / value.width))
    cosine = tape.apply((value,), value.size, value.width)
    turned = tape.apply((value,), value.size, value.width, transient=value.size)
    sine = tape.apply((turned,), value.size, value.width)
    out = tape.add(cosine, sine)
    return tape.apply((out, whole), whole.size, whole.width) if share < 1 else out


def attend(tape: Tape, mode: LayerMode, part: Attention, query: Value, key: Value, values: Value) -> Value:
    """Record the kernel and return its output, heads side by side."""
    kernel = _kernel(mode, part)
    if mode.autocasts:
        query, key, values = (tape.cast(each, mode.compute) for each in (query, key, values))
    if part.spread_heads:
        part = replace(part, kv_heads=part.heads)
    if kernel is AttentionKernel.EAGER:
        record = eager if part.picked_heads else partial(_eager, mode=mode)
        return record(tape, part=part, query=query, key=key, values=values)
    if part.picked_heads and part.heads != part.kv_heads and kernel is AttentionKernel.SDPA:
        return mathematical(tape, part, query, key, values)
    statistics = Size(STATISTICS * part.heads)
    out = Size(part.output_width * query.width)
    if not mode.masked or mode.kernel is AttentionKernel.FLASH:
        if mode.software.repeats_keys:
            key, values = repeated(tape, part, key), repeated(tape, part, values)
        mixed = tape.apply(
            (query, key, values),
            out,
            query.width,
            saves=(query, key, values),
            saves_output=True,
            also_saves=statistics,
        )
        # Flash attention lays its output out as the query is; a concatenation leaves that head by head, so it is copied.
        is_joined = part.positions is Positions.ROTARY and (part.rotary_share < 1 or part.joins_rotated)
        return tape.apply((mixed,), out, query.width) if is_joined else mixed
    spread = _viewed if part.kv_heads == 1 else repeated
    key, values = spread(tape, part, key), spread(tape, part, values)
    mask = tape.tensor(Size(pair=query.width), query.width, differentiable=False)
    return tape.apply(
        (query, key, values),
        out,
        query.width,
        saves=(query, key, values, mask),
        saves_output=True,
        also_saves=statistics,
    )


def _kernel(mode: LayerMode, part: Attention) -> AttentionKernel:
    """The kernel that transformers runs: eager where it has no other path for this attention."""
    if mode.kernel is AttentionKernel.FLASH:
        return AttentionKernel.FLASH if part.flash else AttentionKernel.EAGER
    return mode.kernel if part.sdpa else AttentionKernel.EAGER


def repeated(tape: Tape, part: Attention, value: Value) -> Value:
    """Record the copy of keys or values for every query head that shares them."""
    if part.heads == part.kv_heads:
        return value
    return tape.apply((value,), value.size.times(part.heads // part.kv_heads), value.width)


def _viewed(tape: Tape, part: Attention, value: Value) -> Value:
    """Record repeat_kv of a single head: expanding and reshaping it is a view, only its gradient is as wide as the queries."""
    return tape.slice(value, value.size.times(part.heads))


def _eager(tape: Tape, mode: LayerMode, part: Attention, query: Value, key: Value, values: Value) -> Value:
    """Record scores, scaling, mask, softmax in float32 and its cast: 6 bytes per head and pair stay (bfloat16)."""
    key, values = repeated(tape, part, key), repeated(tape, part, values)
    width = query.width
    scores = Size(pair=width * part.heads)
    product = tape.apply((query, key), scores, width, saves=(query, key))
    product = tape.apply((product,), scores, width, forward_transient=scores)
    if part.softcap:
        product = tape.apply((product,), scores, width)
        product = tape.apply((product,), scores, width, saves_output=True)
        product = tape.apply((product,), scores, width)
    # The mask has the stream's type, and so has the sum.
    wide = max(width, mode.stream)
    product = tape.apply((product,), Size(pair=wide * part.heads), wide, forward_transient=scores)
    # softmax(dtype=float32) casts bfloat16 scores first; torch 2.13 fuses the two for float16 alone.
    if part.float32_softmax or mode.autocasts:
        product = tape.cast(product, 4)
    weights = tape.apply((product,), product.size, product.width, saves_output=True)
    if part.float32_softmax or part.narrows_softmax:
        weights = tape.cast(weights, width)
    if part.dropout:
        weights = tape.apply((weights,), weights.size, weights.width, also_saves=Size(pair=part.heads))
    weights = tape.cast(weights, width)
    return tape.apply((weights, values), Size(part.output_width * width), width, saves=(weights, values))
