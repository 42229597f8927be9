"""What an estimate needs of an architecture that the closed form does not know: measured on fake tensors, as numbers.

The inspect path writes it beside the inspection report (docs/explanation/oracle.md); the operator needs no torch to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_trainer.oracle.extrapolation import depth_of, extrapolate, shallow_depths, with_depth
from finetune_trainer.oracle.peak_tracker import Category, TracedPhase
from finetune_trainer.oracle.setting import Precision, TracedMethod, TraceSetting
from finetune_trainer.oracle.step import trace
from finetune_trainer.oracle.traced_model import build_model

LENGTHS: Final = (512, 1024)
"""Two lengths tell what grows with tokens from what grows with their square (scores of attention that no fused kernel computes)."""


@dataclass(frozen=True)
class KeptActivations:
    """What one way of training keeps for the backward pass."""

    method: str
    precision: str
    checkpointing: bool
    sequence_length: int
    bytes_per_token_and_layer: float
    """Kept from the forward pass by one layer (the mean, where layers differ)."""
    bytes_per_token_outside: float
    """Kept outside the layers: embedding, last norm, positions."""
    layer_backward_bytes_per_token: float
    """Held in the highest moment of one layer's backward beyond what is kept: recomputed activations and gradients of activations."""
    loss_bytes_per_token: float
    """Held inside the loss beyond what is kept, with the model's own loss: logits, their copies and gradients."""


@dataclass(frozen=True)
class TracedArchitecture:
    """Numbers of one architecture; parameters are counted, bytes are measured."""

    model_type: str
    layers: int
    hidden: int
    vocabulary: int
    parameters: int
    layer_parameters: int
    """Of all layers together."""
    outer_parameters: int
    """Embeddings, last norm and head; a tied head counts once."""
    linear_parameters: int
    """Weights of linear modules without the head: what adapters attach to and quantisation stores in 4 bits."""
    adapter_inputs_and_outputs: int
    """Sum over these modules of input + output width: times the rank, it is LoRA's trainable parameters."""
    parameters_by_class: dict[str, int]
    largest_tensor: int
    kept: tuple[KeptActivations, ...]


def trace_architecture(config: Mapping[str, Any]) -> TracedArchitecture:
    """Return what a generic estimate needs of the decoder that `config` (the content of config.json) describes.

    Traces full training and LoRA on all linear layers in bfloat16 (casts of autocast would count as activations), with and without gradient
    checkpointing, at two lengths, each at two shallow depths: about ten seconds on one core, whatever the model's size.

    Raises:
        ValueError: transformers does not know the architecture, or it has no list of layers.
    """
    counted = _counts(config)
    kept = tuple(
        _kept(
            config,
            TraceSetting(method=method, precision=precision, sequence_length=length, checkpointing=checkpointing),
        )
        for method, precision in (
            (TracedMethod.FULL, Precision.BF16),
            (TracedMethod.LORA, Precision.BF16),
        )
        for checkpointing in (False, True)
        for length in LENGTHS
    )
    return replace(counted, kept=kept)


def _counts(config: Mapping[str, Any]) -> TracedArchitecture:
    with FakeTensorMode():
        model = build_model(config, TraceSetting())
    module = model.module
    head = module.get_output_embeddings()
    in_layers = {id(parameter) for layer in model.layers for parameter in layer.parameters()}
    parameters = list(module.parameters())
    linears = [m for m in module.modules() if type(m) is torch.nn.Linear and m is not head]
    total = sum(parameter.numel() for parameter in parameters)
    inside = sum(parameter.numel() for parameter in parameters if id(parameter) in in_layers)
    text = module.config.get_text_config()
    return TracedArchitecture(
        model_type=str(config["model_type"]),
        layers=depth_of(config),
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        parameters=total,
        layer_parameters=inside,
        outer_parameters=total - inside,
        linear_parameters=sum(linear.weight.numel() for linear in linears),
        adapter_inputs_and_outputs=sum(linear.in_features + linear.out_features for linear in linears),
        parameters_by_class=_by_class(module, in_layers),
        largest_tensor=max(parameter.numel() for parameter in parameters),
        kept=(),
    )


def _by_class(module: Any, in_layers: set[int]) -> dict[str, int]:
    """Count parameters by what they belong to: linear, experts and other matrices, and vectors, inside layers and outside."""
    linear = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Linear)}
    found = dict.fromkeys(
        ("layer-linear", "layer-stacked", "layer-other", "layer-vector", "outer-matrix", "outer-vector"), 0
    )
    for parameter in module.parameters():
        if id(parameter) not in in_layers:
            name = "outer-matrix" if parameter.dim() > 1 else "outer-vector"
        elif id(parameter) in linear:
            name = "layer-linear"
        else:
            name = {1: "layer-vector", 3: "layer-stacked"}.get(parameter.dim(), "layer-other")
        found[name] += parameter.numel()
    return found


def _kept(config: Mapping[str, Any], setting: TraceSetting) -> KeptActivations:
    full = depth_of(config)
    low, high = shallow_depths(config)
    shallow = trace(with_depth(config, min(low, full)), setting)
    deep = trace(with_depth(config, high), setting) if high < full else shallow
    traced = extrapolate(shallow, deep, low, high, full) if high < full else shallow
    tokens = setting.micro_batch * setting.sequence_length

    def kept_in(each: Any) -> int:
        # Where the last hidden state is reached: everything that forward made and has not let go.
        found: int = each.at_last_hidden_state[Category.ACTIVATIONS.value]
        return found

    per_layer = (kept_in(deep) - kept_in(shallow)) / (high - low) if high < full else kept_in(shallow) / full
    loss = max(
        traced.phases[phase].categories[Category.LOSS.value] for phase in (TracedPhase.LOSS, TracedPhase.LOSS_BACKWARD)
    )
    in_backward = traced.phases[TracedPhase.LAYERS_BACKWARD].categories
    passing = sum(in_backward[category.value] for category in (Category.ACTIVATIONS, Category.TEMPORARIES))
    return KeptActivations(
        method=setting.method.value,
        precision=setting.precision.value,
        checkpointing=setting.checkpointing,
        sequence_length=setting.sequence_length,
        bytes_per_token_and_layer=per_layer / tokens,
        bytes_per_token_outside=(kept_in(traced) - per_layer * full) / tokens,
        layer_backward_bytes_per_token=max(0.0, (passing - kept_in(traced)) / tokens),
        loss_bytes_per_token=loss / tokens,
    )
