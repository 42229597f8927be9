"""Which models GGUF files can be made of (output.gguf), and why not of others; the planner, the inspection, publish and the docs read it.

llama.cpp knows an architecture by name and takes some of its numbers for granted; a file whose model differs there would load and say something else.
So every such number is compared here. Read in llama.cpp of 2026-10 (src/models/*.cpp, conversion/*.py), checked by running it
(tests/trainer/test_gguf.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final


class GgufType(StrEnum):
    """How the matrices of a GGUF file are stored; vectors are float32 in all of them."""

    F16 = "f16"
    Q8_0 = "q8_0"


GGUF_BYTES: Final[Mapping[GgufType, Fraction]] = MappingProxyType(
    {GgufType.F16: Fraction(2), GgufType.Q8_0: Fraction(34, 32)}
)
"""Bytes per weight of a matrix: q8_0 has blocks of 32 weights of one byte with one float16 scale."""

GGUF_ARCHITECTURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "llama": "llama",
        "mistral": "llama",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
        "gemma": "gemma",
        "gemma2": "gemma2",
        "gemma3_text": "gemma3",
    }
)
"""Model types of transformers with the name of their architecture in GGUF."""

ROPE_TYPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "llama": ("default", "linear", "llama3", "yarn"),
        "mistral": ("default", "linear", "llama3", "yarn"),
        "qwen2": ("default", "linear", "yarn"),
        "qwen3": ("default", "linear", "yarn"),
        "gemma": ("default",),
        "gemma2": ("default",),
        "gemma3_text": ("default", "linear"),
    }
)
"""How positions may be scaled, by model type."""

_WINDOWED_EVERY: Final = {"gemma2": 2, "gemma3_text": 6}
"""Every so many layers one sees everything and the others a window; llama.cpp has no other pattern for them."""
_LAYERS_OF_27B: Final = {"gemma2": 46, "gemma3_text": 62}
"""With so many layers llama.cpp scales attention by the hidden size per head, with any other number by the head's size."""


def gguf_name(job: str, kind: GgufType) -> str:
    """Return the file's name; llama.cpp and the hub find a type by the last part of it."""
    return f"{job}-{kind.value.upper()}.gguf"


def gguf_obstacle(config: Mapping[str, Any]) -> str | None:
    """Return why no GGUF file can be made of a model with this config.json, None when one can."""
    kind = str(config.get("model_type", ""))
    if kind not in GGUF_ARCHITECTURES:
        known = ", ".join(sorted(GGUF_ARCHITECTURES))
        return f"GGUF files are made of the model types {known}, and this is {kind or 'a model without a model_type'}"
    for rope in _rope_types(config):
        if rope not in ROPE_TYPES[kind]:
            return f"its positions are scaled by {rope}, which GGUF's {kind} has no values for ({', '.join(ROPE_TYPES[kind])})"
    if config.get("use_sliding_window"):
        return (
            f"it has a sliding window (use_sliding_window), which llama.cpp's {GGUF_ARCHITECTURES[kind]} does not have"
        )
    if config.get("quantization_config"):
        return "its weights are quantised (quantization_config); start from the model in 16 bits"
    return _unlike_gemma(kind, config) if kind.startswith("gemma") else None


def _rope_types(config: Mapping[str, Any]) -> list[str]:
    """Return the scalings of positions, in transformers 4's words (rope_scaling) or 5's (rope_parameters), there also by kind of layer."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parts = [part for part in scaling.values() if isinstance(part, Mapping)] or [scaling]
    return [str(part.get("rope_type") or part.get("type") or "default") for part in parts]


def _unlike_gemma(kind: str, config: Mapping[str, Any]) -> str | None:
    layers, heads = int(config.get("num_hidden_layers", 0)), int(config.get("num_attention_heads", 0))
    scalar, head = config.get("query_pre_attn_scalar"), config.get("head_dim")
    if scalar is not None and head is not None and heads:
        expected = int(config["hidden_size"]) // heads if layers == _LAYERS_OF_27B.get(kind) else int(head)
        if int(scalar) != expected:
            return f"query_pre_attn_scalar is {scalar}, and llama.cpp scales attention of {layers} layers by {expected}"
    every, types = _WINDOWED_EVERY.get(kind), config.get("layer_types")
    if every and types:
        pattern = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]
        if list(types) != pattern:
            return f"llama.cpp knows only {kind} whose every {every}th layer sees everything, and layer_types says otherwise"
    return None
