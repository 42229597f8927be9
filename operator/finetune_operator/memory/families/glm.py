"""Decoders that make gate and up in one projection: Phi 3 and 4, GLM-4."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, NormPlacement, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, read_shape, rotary_share
from finetune_operator.memory.layout import block_norms, decoder, gated_mlp, linear, separate_attention


def phi3(config: ConfigReader) -> Architecture:
    """Phi 3 and 4: query, key and value in one projection, gate and up in another."""
    shape = read_shape(config)
    kind, joined = TensorClass.ATTENTION, shape.query_width + 2 * shape.key_width
    tensors = (
        *linear("qkv_proj", kind, shape.hidden, joined),
        *linear("o_proj", kind, shape.query_width, shape.hidden),
    )
    attention = Attention(
        shape.heads, shape.kv_heads, shape.head_dim, inputs=("qkv_proj",), rotary_share=rotary_share(config, 1.0)
    )
    attention = replace(
        attention,
        window=config.count("sliding_window"),
        joins_rotated=True,
        dropout=config.number("attention_dropout", 0.0),
    )
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate, inputs=("gate_up_proj",))
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2)),
        residual_dropout=config.number("resid_pdrop", 0.0),
    )
    return decoder(config, shape, (block,))


def glm(config: ConfigReader) -> Architecture:
    """GLM-4 (2024): biases on query, key and value, half of each head turned, gate and up in one projection."""
    return _glm(config, NormPlacement.BEFORE)


def glm4(config: ConfigReader) -> Architecture:
    """GLM-4-0414: as GLM, with four norms a layer."""
    return _glm(config, NormPlacement.AROUND)


def _glm(config: ConfigReader, placement: NormPlacement) -> Architecture:
    shape = read_shape(config, head_dim=128, kv_heads=2)
    bias = config.flag("attention_bias", default=placement is NormPlacement.BEFORE)
    attention, attention_tensors = separate_attention(shape, bias=bias)
    attention = replace(attention, rotary_share=rotary_share(config, 0.5))
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate, inputs=("gate_up_proj",))
    norms = 4 if placement is NormPlacement.AROUND else 2
    tensors = (*attention_tensors, *mlp_tensors, *block_norms(shape, norms))
    block = Block(shape.layers, attention, mlp, tensors, placement=placement, norms=norms)
    return decoder(config, shape, (block,))
