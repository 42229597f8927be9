"""Norms as the modeling files write them: RMS norms are several operations in float32, LayerNorm is one kernel."""

from __future__ import annotations

from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.blocks import NormKind

FLOAT32 = 4


def norm(tape: Tape, mode: LayerMode, kind: NormKind, value: Value, rows: int = 1, *, weighted: bool = True) -> Value:
    """Record a norm over `rows` rows per token (heads, for norms of queries and keys).

    RMS keeps the input in float32 (a cast copy, or the stream itself), the inverse root mean square of every row, and for the weight's
    gradient the normalised value. Llama's casts back before the weight is multiplied, Gemma's behind it.
    """
    trains = (mode.trains_weights or mode.software.trained_norms) and weighted
    elements = value.size.token // value.width
    gradient = (elements // rows * mode.trained,) if trains and mode.keeps_gradients else ()
    out = _computed(tape, mode, kind, value, rows, gradient, trains=trains, weighted=weighted)
    tape.hold(value)
    return out


def _computed(
    tape: Tape,
    mode: LayerMode,
    kind: NormKind,
    value: Value,
    rows: int,
    gradient: tuple[int, ...],
    *,
    trains: bool,
    weighted: bool,
) -> Value:
    if kind is NormKind.LAYER_FLOAT32 and weighted:
        return _written_out(tape, value, rows, gradient, trains=trains)
    if kind in (NormKind.LAYER, NormKind.LAYER_FLOAT32):
        # native_layer_norm; autocast runs it in float32.
        widens = mode.autocasts or kind is NormKind.LAYER_FLOAT32
        read = tape.cast(value, FLOAT32) if widens else value
        out = tape.apply(
            (read,), read.size, read.width, saves=(read,), also_saves=Size(8 * rows), weight_gradients=gradient
        )
        return tape.cast(out, value.width) if kind is NormKind.LAYER_FLOAT32 else out
    if mode.software.fused_norms:
        return tape.apply(
            (value,),
            value.size,
            value.width,
            saves=(value,),
            also_saves=Size(FLOAT32 * rows),
            weight_gradients=gradient,
        )
    wide = tape.cast(value, FLOAT32)
    whole, per_row = wide.size, Size(FLOAT32 * rows)
    squares = tape.apply((wide,), whole, FLOAT32, saves=(wide,), transient=whole.times(2))
    mean = tape.apply((squares,), per_row, FLOAT32, transient=per_row)
    inverse = tape.apply((mean,), per_row, FLOAT32, saves_output=True)
    normalised = tape.apply((wide, inverse), whole, FLOAT32, saves=(wide, inverse), transient=whole)
    wide = normalised
    if kind is not NormKind.RMS_FLOAT32:
        normalised = tape.cast(normalised, value.width)
    if not weighted:
        return normalised
    scaled = tape.apply(
        (normalised,),
        normalised.size,
        normalised.width,
        saves=(normalised,) if trains else (),
        transient=normalised.size if trains else Size(),
        weight_gradients=gradient,
    )
    tape.hold(wide)
    return tape.cast(scaled, value.width)


def _written_out(tape: Tape, value: Value, rows: int, gradient: tuple[int, ...], *, trains: bool) -> Value:
    """Record Cohere's LayerNorm: the centred value is made twice, once for the variance and once to be divided."""
    wide, per_row = tape.cast(value, FLOAT32), Size(FLOAT32 * rows)
    whole = wide.size
    mean = tape.apply((wide,), per_row, FLOAT32, transient=per_row)
    centred = tape.apply((wide, mean), whole, FLOAT32)
    squares = tape.apply((centred,), whole, FLOAT32, saves=(centred,), transient=whole.times(2))
    inverse = tape.apply(
        (tape.apply((squares,), per_row, FLOAT32, transient=per_row),), per_row, FLOAT32, saves_output=True
    )
    again = tape.apply((wide, mean), whole, FLOAT32)
    normalised = tape.apply((again, inverse), whole, FLOAT32, saves=(again, inverse), transient=whole)
    scaled = tape.apply(
        (normalised,), whole, FLOAT32, saves=(normalised,) if trains else (), transient=whole, weight_gradients=gradient
    )
    return tape.cast(scaled, value.width)
