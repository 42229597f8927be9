"""How each family of models lays out its tensors: one short function per `model_type`, read from transformers 5.23's modeling files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import NormKind, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigError, ConfigReader, Shape, read_shape
from finetune_operator.memory.layout import (
    assemble,
    attention,
    block_norms,
    expert_tensors,
    gated_mlp,
    head_norms,
    linear,
    norm,
)

Family = Callable[[ConfigReader], Architecture]


def _llama(
    config: ConfigReader, model_type: str = "llama", *, tied: bool = False, kv_heads: int | None = None
) -> Architecture:
    """Llama and what copies it: Mistral, Granite, SmolLM 3; biases only where the config says so."""
    shape = read_shape(config, tied=tied, kv_heads=kv_heads)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *gated_mlp(shape.hidden, shape.intermediate, bias=config.flag("mlp_bias", default=False)),
        *block_norms(shape, 2),
    )
    return assemble(model_type, shape, tensors)


def _mistral(config: ConfigReader) -> Architecture:
    shape = read_shape(config, kv_heads=8)
    tensors = (
        *attention(shape),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 2),
    )
    return assemble("mistral", shape, tensors)


def _qwen2(config: ConfigReader) -> Architecture:
    shape = read_shape(config, kv_heads=32)
    tensors = (
        *attention(shape, bias=True),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 2),
    )
    return assemble("qwen2", shape, tensors)


def _qwen3(config: ConfigReader) -> Architecture:
    shape = read_shape(config, head_dim=128, kv_heads=32)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *head_norms(shape),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 2),
    )
    return assemble("qwen3", shape, tensors, query_key_norm=True)


def _gemma(config: ConfigReader, model_type: str = "gemma", kv_heads: int = 16) -> Architecture:
    """Gemma 1 to 3 (text): float32 norms, four per layer from Gemma 2 on, norms of queries and keys in Gemma 3."""
    shape = read_shape(config, tied=True, head_dim=256, kv_heads=kv_heads)
    bias = config.flag("attention_bias", default=False)
    sandwich, has_head_norms = model_type != "gemma", model_type == "gemma3_text"
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *(head_norms(shape) if has_head_norms else ()),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 4 if sandwich else 2),
    )
    return assemble(
        model_type, shape, tensors, norm=NormKind.RMS_FLOAT32, sandwich_norms=sandwich, query_key_norm=has_head_norms
    )


def _olmo2(config: ConfigReader) -> Architecture:
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *norm("query_key_norm", shape.query_width),
        *norm("query_key_norm", shape.key_width),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 2),
    )
    return assemble("olmo2", shape, tensors, query_key_norm=True)


def _phi3(config: ConfigReader) -> Architecture:
    """Phi 3 and 4: query, key and value in one projection, gate and up in another."""
    shape = read_shape(config)
    joined = shape.query_width + 2 * shape.key_width
    tensors = (
        *linear("qkv_proj", TensorClass.ATTENTION, shape.hidden, joined),
        *linear("o_proj", TensorClass.ATTENTION, shape.query_width, shape.hidden),
        *linear("gate_up_proj", TensorClass.MLP, shape.hidden, 2 * shape.intermediate),
        *linear("down_proj", TensorClass.MLP, shape.intermediate, shape.hidden),
        *block_norms(shape, 2),
    )
    return assemble("phi3", shape, tensors, attention_inputs=("qkv_proj",), mlp_inputs=("gate_up_proj",))


def _starcoder2(config: ConfigReader) -> Architecture:
    shape = read_shape(config, tied=True, kv_heads=2)
    bias = config.flag("use_bias", default=True)
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *linear("c_fc", TensorClass.MLP, shape.hidden, shape.intermediate, bias=bias),
        *linear("c_proj", TensorClass.MLP, shape.intermediate, shape.hidden, bias=bias),
        *block_norms(shape, 2, bias=True),
    )
    return assemble(
        "starcoder2",
        shape,
        tensors,
        norm=NormKind.LAYER,
        norm_bias=True,
        gated=False,
        mlp_inputs=("c_fc",),
        mlp_output="c_proj",
    )


def _gpt2(config: ConfigReader) -> Architecture:
    hidden, heads = config.whole("n_embd", "hidden_size"), config.whole("n_head", "num_attention_heads")
    positions = config.whole("n_positions", "max_position_embeddings", default=1024)
    shape = Shape(
        hidden=hidden,
        layers=config.whole("n_layer", "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=config.whole("n_inner", default=4 * hidden),
        vocabulary=config.whole("vocab_size"),
        tied=config.flag("tie_word_embeddings", default=True),
        max_positions=positions,
    )
    kind = TensorClass.ATTENTION
    tensors = (
        *linear("c_attn", kind, hidden, 3 * hidden, bias=True),
        *linear("c_proj", kind, hidden, hidden, bias=True),
        *linear("c_fc", TensorClass.MLP, hidden, shape.intermediate, bias=True),
        *linear("c_proj", TensorClass.MLP, shape.intermediate, hidden, bias=True),
        *block_norms(shape, 2, bias=True),
    )
    return assemble(
        "gpt2",
        shape,
        tensors,
        norm=NormKind.LAYER,
        norm_bias=True,
        gated=False,
        activation=config.text("activation_function", "gelu_new"),
        attention_inputs=("c_attn",),
        attention_output="c_proj",
        mlp_inputs=("c_fc",),
        mlp_output="c_proj",
        residual_dropout=config.number("resid_pdrop", 0.1),
        outer=(Tensor("wpe", TensorClass.EMBEDDING, (positions, hidden)),),
    )


def _gpt_neox(config: ConfigReader) -> Architecture:
    """GPT-NeoX and Pythia; attention and MLP read the residual stream side by side, which changes no tensor that is kept."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=True)
    tensors = (
        *linear("query_key_value", TensorClass.ATTENTION, shape.hidden, 3 * shape.hidden, bias=bias),
        *linear("dense", TensorClass.ATTENTION, shape.hidden, shape.hidden, bias=bias),
        *linear("dense_h_to_4h", TensorClass.MLP, shape.hidden, shape.intermediate, bias=True),
        *linear("dense_4h_to_h", TensorClass.MLP, shape.intermediate, shape.hidden, bias=True),
        *block_norms(shape, 2, bias=True),
    )
    return assemble(
        "gpt_neox",
        shape,
        tensors,
        norm=NormKind.LAYER,
        norm_bias=True,
        gated=False,
        attention_inputs=("query_key_value",),
        attention_output="dense",
        mlp_inputs=("dense_h_to_4h",),
        mlp_output="dense_4h_to_h",
    )


def _mixtral(config: ConfigReader) -> Architecture:
    shape = read_shape(config, kv_heads=8)
    experts = config.whole("num_local_experts", "num_experts", default=8)
    tensors = (
        *attention(shape),
        *expert_tensors(shape.hidden, shape.intermediate, experts),
        *block_norms(shape, 2),
    )
    return assemble(
        "mixtral",
        shape,
        tensors,
        experts=experts,
        experts_per_token=config.whole("num_experts_per_tok", default=2),
    )


def _qwen3_moe(config: ConfigReader) -> Architecture:
    dense = read_shape(config, kv_heads=4)
    if config.whole("decoder_sparse_step", default=1) != 1 or config.config.get("mlp_only_layers"):
        raise ConfigError(
            "decoder_sparse_step other than 1 and mlp_only_layers (some layers without experts) are not known"
        )
    width = config.whole("moe_intermediate_size", default=768)
    experts = config.whole("num_experts", "num_local_experts", default=128)
    shape = replace(dense, intermediate=width)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *attention(shape, bias=bias, output_bias=bias),
        *head_norms(shape),
        *expert_tensors(shape.hidden, width, experts),
        *block_norms(shape, 2),
    )
    return assemble(
        "qwen3_moe",
        shape,
        tensors,
        query_key_norm=True,
        experts=experts,
        experts_per_token=config.whole("num_experts_per_tok", default=8),
    )


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "llama": _llama,
        "mistral": _mistral,
        "granite": lambda config: _llama(config, "granite"),
        "smollm3": lambda config: _llama(config, "smollm3", tied=True, kv_heads=4),
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "qwen3_moe": _qwen3_moe,
        "gemma": _gemma,
        "gemma2": lambda config: _gemma(config, "gemma2", kv_heads=4),
        "gemma3_text": lambda config: _gemma(config, "gemma3_text", kv_heads=4),
        "olmo2": _olmo2,
        "phi3": _phi3,
        "starcoder2": _starcoder2,
        "gpt2": _gpt2,
        "gpt_neox": _gpt_neox,
        "mixtral": _mixtral,
    }
)
"""Every `model_type` that the estimator knows."""
