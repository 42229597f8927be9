"""From traces of two shallow models to one of full depth: each phase's peak grows by the same bytes with every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from finetune_trainer.oracle.peak_tracker import TracedPhase
from finetune_trainer.oracle.setting import TraceSetting
from finetune_trainer.oracle.step import PhaseTrace, Trace, trace

DEPTH_FIELDS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
PER_LAYER_LISTS: Final = ("layer_types", "mlp_layer_types", "no_rope_layers")
SHALLOW: Final = 3
"""Layers of the shallower trace: a first, one between and a last one (with two, FSDP2 has none to fetch ahead)."""


def depth_of(config: Mapping[str, Any]) -> int:
    """Return the number of layers that `config` (the content of config.json) names.

    Raises:
        ValueError: it names none.
    """
    for name in DEPTH_FIELDS:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise ValueError(f"config.json has none of {', '.join(DEPTH_FIELDS)}: the number of layers cannot be told")


def with_depth(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return `config` with its first `layers` layers only."""
    cut = dict(config)
    for name in DEPTH_FIELDS:
        if name in cut:
            cut[name] = layers
    for name in PER_LAYER_LISTS:
        if isinstance(cut.get(name), list):
            cut[name] = cut[name][:layers]
    return cut


def period_of(config: Mapping[str, Any]) -> int:
    """Return after how many layers the kinds of layers repeat; 1 where all are the same."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return next(p for p in range(1, len(kinds) + 1) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False)))
    for name in ("sliding_window_pattern", "moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step"):
        value = config.get(name)
        if isinstance(value, int) and value > 1:
            return value
    return 1


def trace_extrapolated(config: Mapping[str, Any], setting: TraceSetting) -> Trace:
    """Return the memory of one training step of the whole model from two shallow traces; exact where layers repeat.

    With a repeating pattern of p layers the traces have the same remainder modulo p as the whole model, and at least one pattern and the
    leading dense layers of a mixture of experts (`first_k_dense_replace`).
    """
    full = depth_of(config)
    low, high = shallow_depths(config)
    if high >= full:
        return trace(config, setting)
    shallow, deep = trace(with_depth(config, low), setting), trace(with_depth(config, high), setting)
    return extrapolate(shallow, deep, low, high, full)


def shallow_depths(config: Mapping[str, Any], *, least: int = SHALLOW, patterns: int = 2) -> tuple[int, int]:
    """Return the two depths whose traces tell all others: some patterns of layers apart, with the same remainder as the whole model.

    The shallower has at least `least` layers and one pattern behind the leading dense layers.
    """
    full, period = depth_of(config), period_of(config)
    leading = config.get("first_k_dense_replace", 0) or 0
    low = leading + max(period, least)
    low += (full - low) % period
    return low, low + patterns * period


def extrapolate(shallow: Trace, deep: Trace, low: int, high: int, full: int) -> Trace:
    """Return the line through traces of `low` and `high` layers at `full` layers, phase by phase."""

    def at_full(a: int, b: int) -> int:
        return b + (b - a) * (full - high) // (high - low)

    phases: dict[TracedPhase, PhaseTrace] = {}
    for phase, there in deep.phases.items():
        here = shallow.phases[phase]
        phases[phase] = PhaseTrace(
            peak=at_full(here.peak, there.peak),
            categories={name: at_full(here.categories[name], size) for name, size in there.categories.items()},
        )
    return Trace(
        phases=phases,
        at_last_hidden_state={
            name: at_full(shallow.at_last_hidden_state[name], size) for name, size in deep.at_last_hidden_state.items()
        },
        trained_parameters=at_full(shallow.trained_parameters, deep.trained_parameters),
        parameters=at_full(shallow.parameters, deep.parameters),
    )
