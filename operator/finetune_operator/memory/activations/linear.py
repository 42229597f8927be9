"""Linear modules: plain, trained, under autocast, quantised, and with the adapters that PEFT 0.21 puts around them."""

from __future__ import annotations

from finetune_operator.memory.activations.gradients import Value
from finetune_operator.memory.activations.mode import LayerMode
from finetune_operator.memory.activations.size import NOTHING, Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.kinds import Tuning

HALF = 2
"""Bytes per element of float16."""


def linear(tape: Tape, mode: LayerMode, value: Value, name: str, outputs: int) -> Value:
    """Record the linear module `name` with `outputs` output features, and the adapter that it carries."""
    result = product(tape, mode, value, outputs, trains=mode.trains_weights, quantized=mode.quantized)
    if mode.software.scaled_outputs:
        result = scaled_output(tape, mode, result)
    if mode.is_adapted(name):
        adapted = _dora if mode.tuning is Tuning.DORA else _lora
        result = adapted(tape, mode, value, result, outputs)
    tape.hold(value)  # a module's caller holds what it passes until the module returns
    return result


def scaled_output(tape: Tape, mode: LayerMode, result: Value) -> Value:
    """Record the product of a linear's output with a trained vector: the first trained weight that the layer's input meets."""
    gradient = _features(result) * mode.trained if mode.keeps_gradients else 0
    return tape.apply((result,), result.size, result.width, saves=(result,), weight_gradients=(gradient,))


def _features(value: Value) -> int:
    return value.size.token // value.width


def product(
    tape: Tape, mode: LayerMode, value: Value, outputs: int, *, trains: bool, quantized: bool = False, calls: int = 1
) -> Value:
    """Record x·Wᵀ. A trained weight keeps x; autocast casts x for every reader, and a trained weight once per forward pass.

    Frozen float32 weights are cast at every call, since autocast's cache takes only weights that need a gradient (torch,
    autocast_mode.cpp, cached_cast), and every call keeps its cast for the gradient of x. `calls`: parts of the tokens, one after another.
    """
    read = tape.cast(value, mode.compute) if mode.autocasts else value
    weights = _features(value) * outputs
    size = Size(outputs * read.width)
    if not trains:
        widened = Size(fixed=weights * (mode.compute + HALF * mode.software.widens_in_half)) if quantized else NOTHING
        held = (read,) if quantized and mode.software.quantized_inputs_kept else ()
        casts = mode.autocasts and mode.base > mode.compute and not quantized
        own_cast = Size(fixed=calls * weights * mode.compute) if casts else NOTHING
        result = tape.apply(
            (read,), size, read.width, holds=held, also_saves=own_cast, transient=widened, forward_transient=widened
        )
        # bitsandbytes' Linear4bit gives back the type that it was given: float32 behind a LayerNorm under autocast.
        return tape.cast(result, value.width) if quantized else result
    gradient = weights * mode.trained if mode.keeps_gradients else 0
    if not mode.autocasts:
        # The gradients of further calls are added to the first one's.
        second = Size(fixed=gradient) if calls > 1 else NOTHING
        return tape.apply((read,), size, read.width, saves=(read,), weight_gradients=(gradient,), transient=second)
    # The cast of the weight is kept; its gradient arrives in the compute type and is cast to the weight's.
    cast = tape.cached_cast(weights * mode.compute, mode.compute, gradient)
    return tape.apply((read, cast), size, read.width, saves=(read, cast))


def _dropped(tape: Tape, mode: LayerMode, value: Value) -> Value:
    """Record PEFT's dropout: an own copy of the input per adapter, and a mask of one byte per element."""
    if not mode.drops:
        return value
    return tape.apply((value,), value.size, value.width, also_saves=Size(_features(value)))


def _low_rank(tape: Tape, mode: LayerMode, value: Value, outputs: int) -> Value:
    inner = product(tape, mode, value, mode.rank, trains=not mode.software.frozen_inputs)
    tape.hold(value)
    return product(tape, mode, inner, outputs, trains=True)


def _lora(tape: Tape, mode: LayerMode, value: Value, result: Value, outputs: int) -> Value:
    """Record `result + lora_B(lora_A(dropout(x))) * scaling`, x cast to the adapter's type and the sum cast back."""
    width = result.width
    if mode.quantized:
        result = tape.apply((result,), result.size, result.width)  # bitsandbytes layers clone the result
    casts = not (mode.quantized and mode.autocasts)
    read = tape.cast(value, mode.trained) if casts else value
    low_rank = _low_rank(tape, mode, _dropped(tape, mode, read), outputs)
    update = mode.trained * _features(value) * outputs if mode.software.whole_updates else 0
    scaled = tape.apply((low_rank,), low_rank.size, low_rank.width, also_saves=Size(fixed=update))
    tape.hold(read)
    if share := mode.software.padded_share:
        # litgpt's zero_pad: index_copy keeps what it copied.
        kept = Size(token=round(share * scaled.size.token))
        scaled = tape.apply((scaled,), scaled.size, scaled.width, also_saves=kept)
    return tape.cast(tape.add(result, scaled), width)


def _dora(tape: Tape, mode: LayerMode, value: Value, result: Value, outputs: int) -> Value:
    """Record DoRA: the norm of the whole adapted weight is computed in every forward pass, from an identity matrix through the adapter.

    `(magnitude / norm - 1) * result + magnitude / norm * lora * scaling`, then added to the result.
    """
    width, inputs = result.width, _features(value)
    read = tape.cast(value, mode.trained)
    wide = mode.trained
    # The identity, the adapter's product in the compute type and cast, the base weight, and their weighted sum.
    norm = Size(fixed=inputs * inputs * wide + outputs * inputs * (mode.compute + 3 * wide))
    read = _dropped(tape, mode, read)
    low_rank = _low_rank(tape, mode, read, outputs)
    scaled_result = _of_dropped(tape, mode, read, outputs) if mode.drops else result
    magnitude = (outputs * mode.trained,) if mode.keeps_gradients else (0,)
    scaled_base = tape.apply(
        (scaled_result,),
        _as(scaled_result.size, scaled_result.width, wide),
        wide,
        saves=(scaled_result,),
        weight_gradients=magnitude,
        forward_transient=norm,
    )
    scaled = tape.apply(
        (low_rank,),
        _as(low_rank.size, low_rank.width, wide),
        wide,
        saves=(low_rank,),
        weight_gradients=magnitude,
    )
    scaled = tape.apply((scaled,), scaled.size, wide)
    extra = tape.add(scaled_base, scaled)
    return tape.cast(tape.add(result, extra), width)


def _of_dropped(tape: Tape, mode: LayerMode, value: Value, outputs: int) -> Value:
    """Record the base's product again, with the input after dropout, and the base's weight cast to the input's type (DoraLinearLayer)."""
    read = tape.cast(value, mode.compute) if mode.autocasts else value
    own_cast = Size(fixed=_features(value) * outputs * read.width) if value.width != mode.base else NOTHING
    return tape.apply((read,), Size(outputs * read.width), read.width, also_saves=own_cast)


def _as(size: Size, width: int, wanted: int) -> Size:
    return Size(*(part * wanted // width for part in size))
