"""Decoders with experts: Mixtral, Qwen-MoE, OLMoE, Granite-MoE, gpt-oss, Llama 4.

Since transformers 5 the experts of a layer are two three-dimensional parameters (gate and up in one, down in the other): no linear modules, so
bitsandbytes does not quantise them; the router is a parameter as well. PEFT adapts them all the same in the families of
api.model_types.EXPERTS_ADAPTED. Before, most families had a linear module per expert and matrix, and a linear router:
`ConfigReader.transformers_major` says which is meant.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.model_types import EXPERTS_ADAPTED
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, FeedForward, Positions, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape, layer_windows, read_shape
from finetune_operator.memory.families.llama import layer_positions, qwen_windows
from finetune_operator.memory.layout import (
    block_norms,
    decoder,
    gated_mlp,
    head_norms,
    layers_of,
    linear,
    norm,
    separate_attention,
)


def routed_experts(
    config: ConfigReader,
    shape: Shape,
    width: int,
    *,
    experts: int,
    per_token: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    were_linear: bool = True,
    router_was_linear: bool = True,
) -> tuple[FeedForward, tuple[Tensor, ...]]:
    """Return the experts of one layer and their router; `names` are those of the linear modules of transformers 4."""
    before = config.transformers_major < 5
    adapted = config.model_type in EXPERTS_ADAPTED and not (before and were_linear)
    part = FeedForward(
        width=width,
        experts=experts,
        experts_per_token=per_token,
        inputs=names[:2],
        output=names[2],
        experts_are_linear=before and were_linear,
        experts_are_adapted=adapted,
        activation=config.text("hidden_act", "silu"),
    )
    hidden, kind = shape.hidden, TensorClass.EXPERTS
    router = (
        linear("gate", TensorClass.ROUTER, hidden, experts)
        if before and router_was_linear
        else (_parameter("gate", TensorClass.ROUTER, (experts, hidden), ("gate",) if adapted else ()),)
    )
    if not part.experts_are_linear:
        fused = (
            _parameter("experts", kind, (experts, 2 * width, hidden), names[:2] if adapted else ()),
            _parameter("experts", kind, (experts, hidden, width), names[2:] if adapted else ()),
        )
        return part, (*router, *fused)
    one = (
        *linear(names[0], kind, hidden, width),
        *linear(names[1], kind, hidden, width),
        *linear(names[2], kind, width, hidden),
    )
    return part, (*router, *(replace(tensor, copies=experts) for tensor in one))


def _parameter(name: str, kind: TensorClass, shape: tuple[int, ...], targets: tuple[str, ...]) -> Tensor:
    """Return a weight that is no linear module; PEFT adapts it under the names `targets`."""
    return Tensor(name, kind, shape, in_features=shape[-1], out_features=shape[-2], targets=targets)


def mixtral(config: ConfigReader) -> Architecture:
    """Mixtral."""
    shape = read_shape(config, kv_heads=8)
    experts, tensors = routed_experts(
        config,
        shape,
        shape.intermediate,
        experts=config.whole("num_local_experts", "num_experts", default=8),
        per_token=config.whole("num_experts_per_tok", default=2),
        names=("w1", "w3", "w2"),
    )
    experts = replace(experts, scores_float32=True)
    attention, attention_tensors = separate_attention(shape)
    every = (*attention_tensors, *tensors, *block_norms(shape, 2))
    blocks = layers_of(
        layer_windows(config, shape.layers, every=0),
        lambda window: Block(1, replace(attention, window=window), experts, every),
    )
    return decoder(config, shape, blocks)


def qwen2_moe(config: ConfigReader) -> Architecture:
    """Qwen 1.5 and 2 MoE: a gated shared expert beside the routed ones."""
    shape = read_shape(config, kv_heads=16)
    attention, attention_tensors = separate_attention(shape, bias=config.flag("qkv_bias", default=True))
    experts, tensors = routed_experts(
        config,
        shape,
        config.whole("moe_intermediate_size", default=1408),
        experts=config.whole("num_experts", "num_local_experts", default=60),
        per_token=config.whole("num_experts_per_tok", default=4),
    )
    shared = config.whole("shared_expert_intermediate_size", default=5632)
    _, shared_tensors = gated_mlp(shape.hidden, shared)
    sparse = (
        replace(experts, shared_width=shared, shared_gate=True),
        (*tensors, *shared_tensors, *linear("shared_expert_gate", TensorClass.ROUTER, shape.hidden, 1)),
    )
    return _qwen_moe(config, shape, attention, attention_tensors, sparse)


def qwen3_moe(config: ConfigReader) -> Architecture:
    """Qwen 3 MoE: norms of each head's query and key, no shared expert."""
    shape = read_shape(config, kv_heads=4)
    bias = config.flag("attention_bias", default=False)
    attention, tensors = separate_attention(shape, bias=bias, output_bias=bias)
    sparse = routed_experts(
        config,
        shape,
        config.whole("moe_intermediate_size", default=768),
        experts=config.whole("num_experts", "num_local_experts", default=128),
        per_token=config.whole("num_experts_per_tok", default=8),
    )
    attention = replace(attention, query_key_norm=True)
    return _qwen_moe(config, shape, attention, (*tensors, *head_norms(shape)), sparse)


def _qwen_moe(
    config: ConfigReader,
    shape: Shape,
    attention: Attention,
    attention_tensors: tuple[Tensor, ...],
    sparse: tuple[FeedForward, tuple[Tensor, ...]],
) -> Architecture:
    """Layers with experts are every decoder_sparse_step-th one, less those in mlp_only_layers."""
    step, dense_layers = config.whole("decoder_sparse_step", default=1), config.wholes("mlp_only_layers") or ()
    has_experts = ((index + 1) % step == 0 and index not in dense_layers for index in range(shape.layers))
    dense_part, dense_tensors = gated_mlp(shape.hidden, shape.intermediate)
    dense = (replace(dense_part, experts_are_adapted=sparse[0].experts_are_adapted), dense_tensors)
    norms = block_norms(shape, 2)

    def build(kind: tuple[bool, int]) -> Block:
        part, tensors = sparse if kind[0] else dense
        return Block(1, replace(attention, window=kind[1]), part, (*attention_tensors, *tensors, *norms))

    kinds = zip(has_experts, qwen_windows(config, shape.layers), strict=True)
    return decoder(config, shape, layers_of(kinds, build))


def olmoe(config: ConfigReader) -> Architecture:
    """OLMoE: norms of queries and keys over their whole width."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, query_key_norm=True, clipped=config.has("clip_qkv"))
    experts, tensors = routed_experts(
        config,
        shape,
        shape.intermediate,
        experts=config.whole("num_experts", default=64),
        per_token=config.whole("num_experts_per_tok", default=8),
    )
    every = (
        *attention_tensors,
        *norm("query_key_norm", shape.query_width),
        *norm("query_key_norm", shape.key_width),
        *tensors,
        *block_norms(shape, 2),
    )
    return decoder(config, shape, (Block(shape.layers, attention, experts, every),))


def granitemoe(config: ConfigReader) -> Architecture:
    """Granite 3 MoE: experts were one parameter before transformers 5 already; their router was linear."""
    return _granitemoe(config, 0)


def granitemoeshared(config: ConfigReader) -> Architecture:
    """Granite MoE with a shared expert of two linear modules."""
    return _granitemoe(config, config.count("shared_intermediate_size", default=1024))


def _granitemoe(config: ConfigReader, shared: int) -> Architecture:
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    experts, tensors = routed_experts(
        config,
        shape,
        shape.intermediate,
        experts=config.whole("num_local_experts", "num_experts", default=8),
        per_token=config.whole("num_experts_per_tok", default=2),
        names=("input_linear", "input_linear", "output_linear"),
        were_linear=False,
    )
    shared_tensors = (
        gated_mlp(shape.hidden, shared, inputs=("input_linear",), output="output_linear")[1] if shared else ()
    )
    every = (*attention_tensors, *tensors, *shared_tensors, *block_norms(shape, 2))
    block = Block(shape.layers, attention, replace(experts, shared_width=shared), every, residual_scaled=True)
    return replace(decoder(config, shape, (block,)), embedding_scaled=True, logits_scaled=True)


def gpt_oss(config: ConfigReader) -> Architecture:
    """gpt-oss: biases everywhere, a learned score per head in the softmax, every other layer with a window; never linear experts."""
    shape = read_shape(config, head_dim=64, kv_heads=8)
    count, width = config.whole("num_local_experts", "num_experts", default=128), shape.intermediate
    bias = config.flag("attention_bias", default=True)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, sinks=True, sdpa=False)
    part = FeedForward(
        width=width,
        experts=count,
        experts_per_token=config.whole("num_experts_per_tok", "experts_per_token", default=4),
        inputs=("gate_up_proj",),
        expert_bias=True,
    )
    kind = TensorClass.EXPERTS
    every = (
        *attention_tensors,
        Tensor("sinks", TensorClass.ATTENTION, (shape.heads,)),
        Tensor("router", TensorClass.ROUTER, (count, shape.hidden)),
        Tensor("router", TensorClass.ROUTER, (count,)),
        Tensor("experts", kind, (count, shape.hidden, 2 * width)),
        Tensor("experts", kind, (count, 2 * width)),
        Tensor("experts", kind, (count, width, shape.hidden)),
        Tensor("experts", kind, (count, shape.hidden)),
        *block_norms(shape, 2),
    )
    blocks = layers_of(
        layer_windows(config, shape.layers, every=2, window=128),
        lambda window: Block(1, replace(attention, window=window), part, every),
    )
    return decoder(config, shape, blocks)


def llama4(config: ConfigReader) -> Architecture:
    """Llama 4 (text): every expert runs over all tokens, a shared expert; layers without rotary embedding see everything, others a chunk."""
    shape = read_shape(config, head_dim=128, kv_heads=8)
    count, step = config.whole("num_local_experts", default=16), config.whole("interleave_moe_layer_step", default=1)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    head_norm, chunk = config.flag("use_qk_norm", default=True), config.count("attention_chunk_size", default=8192)
    dense, dense_tensors = gated_mlp(shape.hidden, config.whole("intermediate_size_mlp", default=16384))
    shared, shared_tensors = gated_mlp(shape.hidden, shape.intermediate)
    sparse = replace(
        shared,
        experts=count,
        experts_per_token=config.whole("num_experts_per_tok", default=1),
        shared_width=shape.intermediate,
        every_expert_sees_every_token=True,
    )
    kind = TensorClass.EXPERTS
    expert_tensors = (
        *linear("router", TensorClass.ROUTER, shape.hidden, count, subclassed=True),
        Tensor("experts", kind, (count, shape.hidden, 2 * shape.intermediate)),
        Tensor("experts", kind, (count, shape.intermediate, shape.hidden)),
        *shared_tensors,
    )
    listed = config.wholes("moe_layers")
    moe_layers = listed if listed is not None else tuple(range(step - 1, shape.layers, step))

    def build(kind: tuple[bool, Positions]) -> Block:
        turned = kind[1] is Positions.ROTARY
        turning = replace(
            attention,
            positions=kind[1],
            query_key_norm=head_norm and turned,
            query_key_norm_weights=False,
            window=chunk if turned else 0,
            flash=False,
        )
        part, tensors = (sparse, expert_tensors) if kind[0] else (dense, dense_tensors)
        return Block(1, turning, part, (*attention_tensors, *tensors, *block_norms(shape, 2)))

    kinds = zip(
        (index in moe_layers for index in range(shape.layers)), layer_positions(config, shape.layers), strict=True
    )
    return decoder(config, shape, layers_of(kinds, build))
