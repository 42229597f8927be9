"""Attention whose keys and values are fewer heads than the queries when the kernel gets them (Falcon 7B), and how Falcon makes its heads.

transformers 5.23, models/falcon/modeling_falcon.py. No fused kernel of torch takes such heads without `enable_gqa` (ATen's
check_batch_size_and_num_heads_dense), so SDPA runs its mathematical path: everything in float32, scores as tensors.
"""

from __future__ import annotations

from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.blocks import Attention

FLOAT32 = 4


def picked_heads(tape: Tape, part: Attention, joined: Value) -> tuple[Value, Value, Value]:
    """Record `_split_heads`: keys and values are indexed, which copies; the new architecture spreads them over all heads and copies queries."""
    widths = (part.query_width, part.key_width, part.value_width)
    query, key, values = (Size(width * joined.width) for width in widths)
    picked = [tape.apply((joined,), size, joined.width) for size in (key, values)]
    if not part.spread_heads:
        return tape.slice(joined, query), picked[0], picked[1]
    copied = tape.apply((tape.slice(joined, query),), query, joined.width)
    spread = [tape.apply((each,), query, joined.width) for each in picked]
    return copied, spread[0], spread[1]


def mathematical(tape: Tape, part: Attention, query: Value, key: Value, values: Value) -> Value:
    """Record ATen's _scaled_dot_product_attention_math: _safe_softmax makes two results and a mask; the mask is added in place."""
    width, scores = query.width, Size(pair=FLOAT32 * part.heads)
    query, key, wide = (tape.cast(each, FLOAT32) for each in (query, key, values))
    query, key = (tape.apply((each,), each.size, FLOAT32) for each in (query, key))
    key, wide = _expanded(tape, part, key), _expanded(tape, part, wide)
    product = tape.apply((query, key), scores, FLOAT32, saves=(query, key))
    inside = Size(pair=5 * part.heads)
    weights = tape.apply((product,), scores, FLOAT32, saves_output=True, forward_transient=inside)
    out = tape.apply((weights, wide), Size(part.output_width * FLOAT32), FLOAT32, saves=(weights, wide))
    tape.hold(weights)
    out = tape.cast(out, width)
    return tape.apply((out,), out.size, width)  # heads side by side: a copy


def eager(tape: Tape, part: Attention, query: Value, key: Value, values: Value) -> Value:
    """Record Falcon's own attention: divided in place, the softmax in the compute type."""
    width = query.width
    scores = Size(pair=width * part.heads)
    key, values = _expanded(tape, part, key), _expanded(tape, part, values)
    product = tape.apply((query, key), scores, width, saves=(query, key))
    masked = tape.apply((product,), scores, width)
    weights = tape.apply((masked,), scores, width, saves_output=True)
    tape.hold(product)
    out = tape.apply((weights, values), Size(part.output_width * width), width, saves=(weights, values))
    return tape.apply((out,), out.size, width)


def _expanded(tape: Tape, part: Attention, value: Value) -> Value:
    """Record the copy that a batched product makes of heads that it broadcasts."""
    if part.heads == part.kv_heads:
        return value
    return tape.apply((value,), value.size.times(part.heads // part.kv_heads), value.width)
