"""A layer that no programme describes: the programme of a Llama layer of about its size, scaled to what was measured of the real one.

Measured are bytes kept, and made on the way back, in bfloat16 and under autocast. What a job adds to that (masks, dropout, accumulation, 4-bit
weights, float32 throughout, another rank) a Llama layer's programme knows: its tensors are taken as many times as the real layer has more or less
than that one where both were measured. Weights' gradients and casts need no scaling: the layer that stands in has about as many parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from finetune_operator.memory.activations.mode import FLOAT32, LayerMode
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.architecture import ALL_LINEAR
from finetune_operator.memory.blocks import Block
from finetune_operator.memory.kinds import AttentionKernel, Tuning
from finetune_operator.memory.software import OWN_SOFTWARE
from finetune_operator.memory.traced_layers import TracedActivations, TracedLayer

BFLOAT16: Final = 2
LAST_NORM: Final = 18
"""Bytes per element of the stream that the backward pass of the last norm makes: the layers' backward pass, as it is traced, begins with it."""


def stand_in(block: Block) -> Block:
    """Return the Llama layer that stands in for a traced one; its attention makes whole scores where those of the real one were seen."""
    sdpa = block.traced is None or block.traced.full.kept[1] == 0
    return replace(block, traced=None, attention=replace(block.attention, sdpa=sdpa, flash=sdpa))


def adapting_all(mode: LayerMode) -> LayerMode:
    """Return the mode with adapters everywhere where it has any: names of modules mean nothing to the layer that stands in."""
    return replace(mode, targets=(ALL_LINEAR,)) if mode.targets else mode


def as_traced(mode: LayerMode, rank: int) -> LayerMode:
    """Return the nearest mode that was traced: of full training or adapters of `rank`, under autocast or in bfloat16."""
    trains, autocasts = mode.trains_weights, mode.autocasts
    return LayerMode(
        compute=BFLOAT16,
        stream=FLOAT32 if trains and autocasts else BFLOAT16,
        base=BFLOAT16,
        trained=FLOAT32 if autocasts else BFLOAT16,
        autocasts=autocasts,
        trains_weights=trains,
        tuning=Tuning.FULL if trains else Tuning.LORA,
        targets=() if trains else (ALL_LINEAR,),
        rank=0 if trains else rank,
        drops=False,
        kernel=AttentionKernel.SDPA,
        masked=False,
        quantized=False,
        input_differentiable=True,
        accumulates=False,
        keeps_gradients=True,
        on_cpu=False,
        software=OWN_SOFTWARE,
    )


def as_measured(hidden: int, traced: TracedActivations, asked: Profile, like: Profile, mode: LayerMode) -> Profile:
    """Return `asked`, the stand-in's programme in `mode`, scaled as what was traced is to `like`, its programme in the nearest traced mode."""
    layer = traced.of(trains_weights=mode.trains_weights, autocasts=mode.autocasts)
    kept = _Scale.between(layer.kept, like.kept)
    passing = _Scale(1.0, kept.pair)
    backward = passing if mode.trains_weights else _backward(hidden, layer, like)

    def point(size: Size, beyond: _Scale) -> Size:
        # Below what is kept, tensors are not there yet, or freed already; beyond it are those that pass.
        over = size.minus(asked.kept)
        return kept.of(asked.kept).plus((beyond if over.token > 0 else kept).of(over))

    return replace(
        asked,
        kept=kept.of(asked.kept),
        forward=tuple(point(size, passing) for size in asked.forward),
        recomputed=tuple(point(size, passing) for size in asked.recomputed),
        backward=tuple(point(size, backward) for size in asked.backward),
        accumulating=tuple(point(size, backward) for size in asked.accumulating),
        held=kept.of(asked.held),
    )


def _backward(hidden: int, layer: TracedLayer, like: Profile) -> _Scale:
    """Return how many times as much the real layer's backward pass makes; never less, since the highest moment may have been elsewhere."""
    highest = max(like.backward, key=lambda point: point.token).minus(like.kept)
    scale = _Scale.between(layer.backward, highest)
    return _Scale(max(1.0, layer.backward[0] / max(highest.token, LAST_NORM * hidden)), scale.pair)


@dataclass(frozen=True)
class _Scale:
    """How many times as much the real layer has, per token and per pair of tokens."""

    token: float
    pair: float

    @classmethod
    def between(cls, traced: tuple[int, int], stand_in: Size) -> _Scale:
        return cls(
            traced[0] / stand_in.token if stand_in.token > 0 else 1.0,
            traced[1] / stand_in.pair if stand_in.pair > 0 and traced[1] > 0 else 1.0,
        )

    def of(self, size: Size) -> Size:
        return Size(round(size.token * self.token), round(size.pair * self.pair), size.fixed)
