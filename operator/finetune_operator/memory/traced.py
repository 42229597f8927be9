"""An architecture that no family describes, from what the oracle measured of it (docs/explanation/oracle.md).

Tensors are the model's own: parameters, adapters and weights in 4 bits are exact. Activations are measured in bfloat16 and under autocast; how
they are carried over to a job is told in activations/traced_layer.py. Attention and feed-forward part are those of a Llama of about this
size, which costs of time are computed from as well; experts are counted as far as the config says how many a token visits.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    TracedActivations,
    TracedLayer,
)

HEAD_WIDTH: Final = 64
"""Of attention heads, where the config does not name their number."""

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
        blocks=tuple(_block(layers, text, trace.hidden, activations) for layers in trace.layers),
        outer=(Tensor(EMBEDDING_NAME, first.kind, first.shape), *others),
        max_positions=_number(text, "max_position_embeddings", "n_positions"),
        logits_capped=bool(text.get("final_logit_softcapping")),
    )


def _layer(trace: ArchitectureTrace, method: str, precision: str) -> TracedLayer:
    found = next(each for each in trace.passes if (each.method, each.precision) == (method, precision))
    return TracedLayer(kept=_rounded(found.kept), backward=_rounded(found.backward))


def _rounded(traced: TracedBytes) -> tuple[int, int]:
    return round(traced.per_token), round(traced.per_pair)


def _tensor(tensor: TracedTensor, *, experts: bool = True) -> Tensor:
    kind = _KINDS[tensor.kind]
    return Tensor(
        name=tensor.name,
        kind=TensorClass.MLP if kind is TensorClass.EXPERTS and not experts else kind,
        shape=tensor.shape,
        copies=tensor.copies,
        linear=tensor.inputs > 0,
        in_features=tensor.inputs,
        out_features=tensor.outputs,
        subclassed=tensor.subclassed,
    )


def _block(layers: TracedLayers, config: Mapping[str, JsonValue], hidden: int, activations: TracedActivations) -> Block:
    attention = _attention(config, hidden)
    visited = _number(config, "num_experts_per_tok", "num_experts_per_token", "top_k_experts")
    stacked = [tensor for tensor in layers.tensors if tensor.kind == "experts"]
    experts = stacked[0].shape[0] if stacked and visited else 0
    tensors = tuple(_tensor(tensor, experts=experts > 0) for tensor in layers.tensors)
    in_experts = sum(tensor.total for tensor in tensors if tensor.kind is TensorClass.EXPERTS)
    in_attention = 2 * hidden * (attention.query_width + attention.key_width)
    matrices = sum(tensor.total for tensor in tensors if len(tensor.shape) > 1) - in_experts
    dense = max(0, matrices - in_attention) // (3 * hidden)
    part = FeedForward(width=max(1, dense))
    if experts:
        part = FeedForward(
            width=max(1, in_experts // (3 * hidden * experts)),
            experts=experts,
            experts_per_token=visited,
            shared_width=dense if dense > hidden // 8 else 0,
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
