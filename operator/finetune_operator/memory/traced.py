"""An architecture that no family describes, from what the oracle measured of it (docs/explanation/oracle.md).

Tensors are the model's own: parameters, adapters and weights in 4 bits are exact. Activations are measured in bfloat16 and under autocast; how
they are carried over to a job is told in activations/traced_layer.py. Attention and feed-forward part are those of a Llama of about this
size, which costs of time are computed from as well; experts are counted as far as the config says how many a token visits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from finetune_operator.api.architecture_trace import ArchitectureTrace, TracedBytes, TracedLayers, TracedTensor
from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, text_part
from finetune_operator.memory.blocks import (
    Attention,
    Block,
    FeedForward,
    Tensor,
    TensorClass,
)
from finetune_operator.memory.traced_layers import TracedActivations, TracedLayer

HEAD_WIDTH: Final = 64
"""Of attention heads, where the config does not name their number."""

GATE_AND_UP: Final[tuple[str, ...]] = ("gate_proj", "up_proj")
DOWN: Final[tuple[str, ...]] = ("down_proj",)
ROUTER: Final[tuple[str, ...]] = ("gate",)

_KINDS: Final = {
    "embedding": TensorClass.EMBEDDING,
    "head": TensorClass.HEAD,
    "experts": TensorClass.EXPERTS,
    "matrix": TensorClass.MLP,
    "vector": TensorClass.NORM,
}


def traced_architecture(config: Mapping[str, JsonValue], trace: ArchitectureTrace) -> Architecture:
    """Return the architecture with the tensors and activations of `trace`; `config` only adds widths of attention, as far as it has them."""
    text = text_part(config)
    activations = TracedActivations(
        full=_layer(trace, "full", "bf16"),
        full_autocast=_layer(trace, "full", "autocast"),
        adapted=_layer(trace, "lora", "bf16"),
        adapted_autocast=_layer(trace, "lora", "autocast"),
        rank=trace.rank,
    )
    first, *others = (_tensor(tensor) for tensor in trace.outer)
    return Architecture(
        model_type=trace.model_type,
        hidden=trace.hidden,
        vocabulary=trace.vocabulary,
        tied_embeddings=trace.tied_embeddings,
        blocks=tuple(_block(layers, text, trace, activations) for layers in trace.layers),
        outer=(Tensor(EMBEDDING_NAME, first.kind, first.shape), *others),
        max_positions=_number(text, "max_position_embeddings", "n_positions"),
        logits_capped=bool(text.get("final_logit_softcapping")),
    )


def _layer(trace: ArchitectureTrace, method: str, precision: str) -> TracedLayer:
    found = next(each for each in trace.passes if (each.method, each.precision) == (method, precision))
    return TracedLayer(kept=_rounded(found.kept), backward=_rounded(found.backward))


def _rounded(traced: TracedBytes) -> tuple[int, int]:
    return round(traced.per_token), round(traced.per_pair)


def _tensor(tensor: TracedTensor) -> Tensor:
    return Tensor(
        name=tensor.name,
        kind=_KINDS[tensor.kind],
        shape=tensor.shape,
        copies=tensor.copies,
        linear=tensor.inputs > 0,
        in_features=tensor.inputs,
        out_features=tensor.outputs,
        subclassed=tensor.subclassed,
    )


def _adapts_experts(trace: ArchitectureTrace) -> bool:
    """Whether PEFT gave adapters to more than linear modules."""
    layers = (
        layer.copies * tensor.copies * (tensor.inputs + tensor.outputs)
        for layer in trace.layers
        for tensor in layer.tensors
    )
    outer = (tensor.copies * (tensor.inputs + tensor.outputs) for tensor in trace.outer)
    return trace.adapter_parameters > trace.rank * (sum(layers) + sum(outer))


def _adapted(tensor: Tensor, hidden: int, joined: int) -> Tensor:
    """Return a parameter of experts or their router with its adapters, as api.model_types.EXPERTS_ADAPTED says of the types it names.

    `joined`: elements of the gate and up projections of all experts, which are one tensor.
    """
    if tensor.linear or not (tensor.kind is TensorClass.EXPERTS or tensor.shape[1:] == (hidden,)):
        return tensor
    names = ROUTER
    if tensor.kind is TensorClass.EXPERTS:
        names = GATE_AND_UP if tensor.elements == joined else DOWN
    return replace(tensor, in_features=tensor.shape[-1], out_features=tensor.shape[-2], targets=names)


def _block(
    layers: TracedLayers, config: Mapping[str, JsonValue], trace: ArchitectureTrace, activations: TracedActivations
) -> Block:
    hidden, attention = trace.hidden, _attention(config, trace.hidden)
    tensors = tuple(_tensor(tensor) for tensor in layers.tensors)
    stacked = [tensor for tensor in tensors if tensor.kind is TensorClass.EXPERTS]
    adapted = bool(stacked) and _adapts_experts(trace)
    if adapted:
        joined = max(tensor.elements for tensor in stacked)
        tensors = tuple(_adapted(tensor, hidden, joined) for tensor in tensors)
    in_experts = sum(tensor.total for tensor in stacked)
    in_attention = 2 * hidden * (attention.query_width + attention.key_width)
    matrices = sum(tensor.total for tensor in tensors if len(tensor.shape) > 1) - in_experts
    dense = max(0, matrices - in_attention) // (3 * hidden)
    part = FeedForward(width=max(1, dense))
    if stacked:
        experts = stacked[0].shape[0]
        visited = _number(config, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k", "moe_topk")
        part = FeedForward(
            width=max(1, in_experts // (3 * hidden * experts)),
            experts=experts,
            experts_per_token=visited or experts,
            shared_width=dense if dense > hidden // 8 else 0,
            experts_are_adapted=adapted,
        )
    return Block(layers.copies, attention, part, tensors, traced=activations)


def _attention(config: Mapping[str, JsonValue], hidden: int) -> Attention:
    heads = _number(config, "num_attention_heads", "n_head", "n_heads") or max(1, hidden // HEAD_WIDTH)
    return Attention(
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", "num_kv_heads") or heads,
        head_dim=_number(config, "head_dim") or max(1, hidden // heads),
    )


def _number(config: Mapping[str, JsonValue], *names: str) -> int:
    """Return the first of these fields that is a positive whole number, else 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0)
