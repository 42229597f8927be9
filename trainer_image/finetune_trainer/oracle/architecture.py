"""What an estimate needs of an architecture that the closed form does not know: measured on fake tensors, as numbers.

The inspection's report carries it (docs/explanation/oracle.md); the operator needs no torch to use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_operator.api.architecture_trace import ArchitectureTrace, TracedBytes, TracedLayers, TracedPass
from finetune_trainer.oracle.extrapolation import depth_of, shallow_depths, with_depth
from finetune_trainer.oracle.peak_tracker import Category, TracedPhase
from finetune_trainer.oracle.setting import Precision, TracedMethod, TraceSetting
from finetune_trainer.oracle.step import Trace, trace
from finetune_trainer.oracle.tensors import ModelTensors
from finetune_trainer.oracle.traced_model import TracedModel, build_model

LONGEST: Final = 1024
"""Tokens. Half and a quarter of it are traced too: three lengths tell apart what grows with tokens, what grows with their square (scores of
attention that no fused kernel computes), and what does not grow (casts of weights under autocast)."""
ROUNDING: Final = 0.02
"""Bytes that would be less than this share of the longest sequence's, if they grew with its square, do not."""


def trace_architecture(config: Mapping[str, Any]) -> ArchitectureTrace:
    """Return what a generic estimate needs of the decoder that `config` (the content of config.json) describes.

    Traces full training and LoRA on all linear modules, each in bfloat16 and under autocast as the trainer trains, at three lengths. Two
    shallow depths stand for the whole model where its layers go on like theirs; otherwise the whole model is traced.

    Raises:
        ValueError: transformers does not know the architecture, or it has no list of layers. Other errors are those of its own code.
    """
    whole = _built(config)
    text = whole.module.config.get_text_config()
    longest = min(LONGEST, getattr(text, "max_position_embeddings", None) or LONGEST)
    depths = _depths(config, _kinds(whole))
    passes = tuple(
        _pass(config, TraceSetting(method=method, precision=precision), longest // 4, depths)
        for method in (TracedMethod.FULL, TracedMethod.LORA)
        for precision in (Precision.BF16, Precision.AUTOCAST)
    )
    tensors = ModelTensors(whole.module)
    layers = Counter(tensors.of(layer) for layer in whole.layers)
    head = whole.module.get_output_embeddings()
    return ArchitectureTrace(
        model_type=str(config["model_type"]),
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        tied_embeddings=head is not None and head.weight is whole.module.get_input_embeddings().weight,
        layers=tuple(TracedLayers(copies=copies, tensors=found) for found, copies in layers.items()),
        outer=tensors.outer(),
        passes=passes,
        rank=TraceSetting().rank,
        adapter_parameters=sum(parameter.numel() for parameter in _built(config, TracedMethod.LORA).trained),
    )


Depths = tuple[int, int]
"""Two shallow depths."""


def _built(config: Mapping[str, Any], method: TracedMethod = TracedMethod.FULL) -> TracedModel:
    with FakeTensorMode():
        return build_model(config, TraceSetting(method=method))


def _kinds(model: TracedModel) -> Counter[Any]:
    """Count layers that have the same class and the same tensors."""
    return Counter((type(layer).__name__, ModelTensors(layer).of(layer)) for layer in model.layers)


def _depths(config: Mapping[str, Any], whole: Counter[Any]) -> Depths | None:
    """Return two shallow depths if what the second adds to the first, repeated, makes the whole model's layers; else None."""
    full, (low, high) = depth_of(config), shallow_depths(config, least=1, patterns=1)
    try:
        shallow, deep = _kinds(_built(with_depth(config, low))), _kinds(_built(with_depth(config, high)))
    except Exception:
        # Each configuration class checks its own fields, in its own way: lists with an entry per layer do not fit other depths.
        return None
    grows = {kind: deep[kind] - shallow[kind] for kind in whole | deep | shallow}
    continues = all((whole[kind] - deep[kind]) * (high - low) == (full - high) * more for kind, more in grows.items())
    return (low, high) if continues else None


def _pass(config: Mapping[str, Any], setting: TraceSetting, shortest: int, depths: Depths | None) -> TracedPass:
    lengths = (shortest, 2 * shortest, 4 * shortest)
    kept, backward = zip(
        *(_kept_and_passing(config, replace(setting, sequence_length=length), depths) for length in lengths),
        strict=True,
    )
    return TracedPass(
        method="full" if setting.method is TracedMethod.FULL else "lora",
        precision="autocast" if setting.autocasts else "bf16",
        kept=_growth(shortest, *kept),
        backward=_growth(shortest, *backward),
    )


def _kept_and_passing(config: Mapping[str, Any], setting: TraceSetting, depths: Depths | None) -> tuple[float, float]:
    """Return the bytes that one layer keeps, and those that come on top in the layers' backward pass.

    A model that is traced whole has in each layer's bytes its share of what is kept outside the layers.
    """
    if depths is None:
        whole = trace(config, setting)
        return _kept(whole) / depth_of(config), _passing(whole)
    low, high = depths
    shallow, deep = trace(with_depth(config, low), setting), trace(with_depth(config, high), setting)
    return (_kept(deep) - _kept(shallow)) / (high - low), _passing(deep)


def _growth(shortest: int, short: float, middle: float, long: float) -> TracedBytes:
    """Split bytes at n, 2n and 4n tokens: the parabola through the three, without its constant."""
    first, second = middle - short, long - middle
    pair = (second - 2 * first) / (6 * shortest**2)
    if abs(pair) * (4 * shortest) ** 2 < ROUNDING * long:
        return TracedBytes(per_token=max(0.0, second / (2 * shortest)))
    return TracedBytes(per_token=max(0.0, (first - 3 * pair * shortest**2) / shortest), per_pair=max(0.0, pair))


def _kept(traced: Trace) -> int:
    """Bytes that wait when the last hidden state is reached: everything that the forward pass made and has not let go."""
    found: int = traced.at_last_hidden_state[Category.ACTIVATIONS.value]
    return found


def _passing(traced: Trace) -> int:
    """Bytes that come on top of those at the highest moment of the layers' backward pass."""
    in_backward = traced.phases[TracedPhase.LAYERS_BACKWARD].categories
    passing = sum(in_backward[category.value] for category in (Category.ACTIVATIONS, Category.TEMPORARIES))
    return max(0, passing - _kept(traced))
