"""DeepSeek V2 and V3 (multi-head latent attention, shared experts, first layers dense) and GLM-4.5's MoE, which routes in the same way."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, Latent, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape, read_shape, rotary_share
from finetune_operator.memory.families.moe import routed_experts
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


def deepseek_v2(config: ConfigReader) -> Architecture:
    """DeepSeek V2, V2-Lite, Coder V2."""
    return _deepseek(config, dense_layers=0, experts=64, per_token=6)


def deepseek_v3(config: ConfigReader) -> Architecture:
    """DeepSeek V3 and R1, Moonlight, Kimi K2; without the layer that predicts a second token, which transformers does not load."""
    return _deepseek(config, dense_layers=3, experts=256, per_token=8)


def _deepseek(config: ConfigReader, *, dense_layers: int, experts: int, per_token: int) -> Architecture:
    shape = read_shape(config)
    attention, tensors = latent_attention(config, shape)
    return _first_dense(
        config,
        shape,
        attention,
        tensors,
        dense_layers=dense_layers,
        experts=experts,
        per_token=per_token,
        shared=2 if dense_layers == 0 else 1,
    )


def glm4_moe(config: ConfigReader) -> Architecture:
    """GLM-4.5 and 4.6: grouped heads, half of each turned, DeepSeek V3's experts."""
    shape = read_shape(config, head_dim=128, kv_heads=8)
    attention, tensors = separate_attention(shape, bias=config.flag("attention_bias", default=False))
    head_norm = config.flag("use_qk_norm", default=False)
    attention = replace(attention, query_key_norm=head_norm, rotary_share=rotary_share(config, 0.5))
    tensors = (*tensors, *(head_norms(shape) if head_norm else ()))
    return _first_dense(config, shape, attention, tensors, dense_layers=1, experts=128, per_token=8, shared=1)


def latent_attention(config: ConfigReader, shape: Shape) -> tuple[Attention, tuple[Tensor, ...]]:
    """Return multi-head latent attention: narrow vectors with norms, from which every head's query, key and value are widened."""
    rank = config.count("q_lora_rank", default=1536)
    latent = Latent(
        query_rank=rank,
        key_value_rank=config.whole("kv_lora_rank", default=512),
        rotary_width=config.whole("qk_rope_head_dim", default=64),
        complex_rotary=config.model_type == "deepseek_v2",
    )
    plain = config.whole("qk_nope_head_dim", default=128)
    attention = Attention(
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=plain + latent.rotary_width,
        value_head_dim=config.whole("v_head_dim", default=128),
        inputs=("q_a_proj" if rank else "q_proj", "kv_a_proj_with_mqa"),
        rotary_share=latent.rotary_width / (plain + latent.rotary_width),
        latent=latent,
        input_bias=config.flag("attention_bias", default=False),
        output_bias=config.flag("attention_bias", default=False),
    )
    kind, bias = TensorClass.ATTENTION, attention.input_bias
    query = (
        (
            *linear("q_a_proj", kind, shape.hidden, rank, bias=bias),
            *norm("q_a_layernorm", rank),
            *linear("q_b_proj", kind, rank, attention.query_width),
        )
        if rank
        else linear("q_proj", kind, shape.hidden, attention.query_width)
    )
    tensors = (
        *query,
        *linear("kv_a_proj_with_mqa", kind, shape.hidden, latent.key_value_rank + latent.rotary_width, bias=bias),
        *norm("kv_a_layernorm", latent.key_value_rank),
        *linear("kv_b_proj", kind, latent.key_value_rank, shape.heads * plain + attention.output_width),
        *linear("o_proj", kind, attention.output_width, shape.hidden, bias=bias),
    )
    return attention, tensors


def _first_dense(
    config: ConfigReader,
    shape: Shape,
    attention: Attention,
    attention_tensors: tuple[Tensor, ...],
    *,
    dense_layers: int,
    experts: int,
    per_token: int,
    shared: int,
) -> Architecture:
    """The first first_k_dense_replace layers have an MLP, the others experts; the arguments are the family's defaults."""
    width = config.whole("moe_intermediate_size", default=1408)
    routed, routed_tensors = routed_experts(
        config,
        shape,
        width,
        experts=config.whole("n_routed_experts", "num_local_experts", "num_experts", default=experts),
        per_token=config.whole("num_experts_per_tok", default=per_token),
        router_was_linear=False,
    )
    shared_width = width * config.count("n_shared_experts", default=shared)
    shared_tensors = gated_mlp(shape.hidden, shared_width)[1] if shared_width else ()
    adapted = routed.experts_are_adapted
    # DeepSeek V2's scores are a softmax, made in float32; V3's a sigmoid in the type of the logits.
    softmax = config.model_type == "deepseek_v2"
    routed = replace(routed, shared_width=shared_width, router_float32=True, scores_float32=softmax)
    sparse = (routed, (*routed_tensors, *shared_tensors))
    part, dense_tensors = gated_mlp(shape.hidden, shape.intermediate, bias=config.flag("mlp_bias", default=False))
    dense = (replace(part, experts_are_adapted=adapted), dense_tensors)
    first = config.count("first_k_dense_replace", default=dense_layers)

    def build(has_experts: bool) -> Block:
        part, tensors = sparse if has_experts else dense
        return Block(1, attention, part, (*attention_tensors, *tensors, *block_norms(shape, 2)))

    return decoder(config, shape, layers_of((index >= first for index in range(shape.layers)), build))
