"""Families that brought their own code, so that transformers cannot read them, and some that the estimator has no reader for yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import NormKind, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, read_shape
from finetune_operator.memory.layout import assemble, attention, block_norms, gated_mlp, linear


def _qwen1(config: ConfigReader) -> Architecture:
    """Qwen/Qwen-7B, modeling_qwen.py: c_attn with bias, c_proj without, and an MLP of w1, w2 (width intermediate) and c_proj."""
    shape = read_shape(config)
    kind = TensorClass.ATTENTION
    tensors = (
        *linear("c_attn", kind, shape.hidden, shape.query_width + 2 * shape.key_width, bias=True),
        *linear("attn.c_proj", kind, shape.query_width, shape.hidden),
        *linear("w2", TensorClass.MLP, shape.hidden, shape.intermediate),
        *linear("w1", TensorClass.MLP, shape.hidden, shape.intermediate),
        *linear("mlp.c_proj", TensorClass.MLP, shape.intermediate, shape.hidden),
        *block_norms(shape, 2),
    )
    return assemble(
        "qwen1",
        shape,
        tensors,
        attention_inputs=("c_attn",),
        attention_output="attn.c_proj",
        mlp_inputs=("w2", "w1"),
        mlp_output="mlp.c_proj",
    )


def _baichuan(config: ConfigReader) -> Architecture:
    """baichuan-inc/Baichuan2, modeling_baichuan.py: query, key and value in W_pack, the rest a Llama."""
    shape = read_shape(config)
    tensors = (
        *linear("W_pack", TensorClass.ATTENTION, shape.hidden, shape.query_width + 2 * shape.key_width),
        *linear("o_proj", TensorClass.ATTENTION, shape.query_width, shape.hidden),
        *gated_mlp(shape.hidden, shape.intermediate),
        *block_norms(shape, 2),
    )
    return assemble("baichuan", shape, tensors, attention_inputs=("W_pack",))


def _chatglm(config: ConfigReader) -> Architecture:
    """THUDM/chatglm3-6b, modeling_chatglm.py: query_key_value with bias, gate and up in dense_h_to_4h."""
    shape = read_shape(config)
    joined = shape.query_width + 2 * shape.key_width
    tensors = (
        *linear("query_key_value", TensorClass.ATTENTION, shape.hidden, joined, bias=True),
        *linear("dense", TensorClass.ATTENTION, shape.query_width, shape.hidden),
        *linear("dense_h_to_4h", TensorClass.MLP, shape.hidden, 2 * shape.intermediate),
        *linear("dense_4h_to_h", TensorClass.MLP, shape.intermediate, shape.hidden),
        *block_norms(shape, 2),
    )
    return assemble(
        "chatglm",
        shape,
        tensors,
        attention_inputs=("query_key_value",),
        attention_output="dense",
        mlp_inputs=("dense_h_to_4h",),
        mlp_output="dense_4h_to_h",
    )


def _mixtral(config: ConfigReader) -> Architecture:
    """Transformers 4 and litgpt: each expert has three linear modules, which are quantised and may carry adapters."""
    shape = read_shape(config)
    experts = config.whole("num_local_experts", "num_experts", default=8)
    kind = TensorClass.EXPERTS
    one = (
        ("w1", shape.hidden, shape.intermediate),
        ("w3", shape.hidden, shape.intermediate),
        ("w2", shape.intermediate, shape.hidden),
    )
    tensors = (
        *attention(shape),
        Tensor("gate", TensorClass.ROUTER, (experts, shape.hidden)),
        *(replace(tensor, copies=experts) for name, i, o in one for tensor in linear(name, kind, i, o)),
        *block_norms(shape, 2),
    )
    return assemble(
        "mixtral", shape, tensors, experts=experts, experts_per_token=config.whole("num_experts_per_tok", default=2)
    )


def _ungated(
    model_type: str,
    *,
    bias: bool,
    joined: bool,
    norms: int,
    layer_norm_bias: bool = True,
    activation: str = "gelu",
) -> Callable[[ConfigReader], Architecture]:
    """Return a reader of decoders with LayerNorm and an MLP of two matrices; `joined`: one projection makes query, key and value."""

    def read(config: ConfigReader) -> Architecture:
        shape = read_shape(config)
        kind = TensorClass.ATTENTION
        width = shape.query_width + 2 * shape.key_width
        inputs = (
            linear("query_key_value", kind, shape.hidden, width, bias=bias)
            + linear("dense", kind, shape.query_width, shape.hidden, bias=bias)
            if joined
            else attention(shape, bias=bias, output_bias=bias, output="dense")
        )
        tensors = (
            *inputs,
            *linear("fc1", TensorClass.MLP, shape.hidden, shape.intermediate, bias=bias),
            *linear("fc2", TensorClass.MLP, shape.intermediate, shape.hidden, bias=bias),
            *block_norms(shape, norms, bias=layer_norm_bias),
        )
        return assemble(
            model_type,
            shape,
            tensors,
            norm=NormKind.LAYER,
            norm_bias=layer_norm_bias,
            gated=False,
            activation=activation,
            attention_inputs=("query_key_value",) if joined else ("q_proj", "k_proj", "v_proj"),
            attention_output="dense",
            mlp_inputs=("fc1",),
            mlp_output="fc2",
        )

    return read


Family = Callable[[ConfigReader], Architecture]

LEGACY_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "qwen1": _qwen1,
        "baichuan": _baichuan,
        "chatglm": _chatglm,
        "falcon": _ungated("falcon", bias=False, joined=True, norms=1),
        "phi": _ungated("phi", bias=True, joined=False, norms=1, activation="gelu_new"),
        "gpt_bigcode": _ungated("gpt_bigcode", bias=True, joined=True, norms=2),
        "mpt": _ungated("mpt", bias=False, joined=True, norms=2, layer_norm_bias=False),
    }
)
"""Families that the estimator has no reader for; one that it comes to know is read there."""

TRANSFORMERS_4_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({"mixtral": _mixtral})
"""Families whose modules changed with transformers 5."""
