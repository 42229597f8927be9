"""OLMo 1 to 3: norms without weights, then norms of outputs, and windows."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, NormKind, NormPlacement
from finetune_operator.memory.config_reader import ConfigReader, layer_windows, read_shape
from finetune_operator.memory.layout import block_norms, decoder, gated_mlp, layers_of, norm, separate_attention


def olmo(config: ConfigReader) -> Architecture:
    """OLMo 1: LayerNorm without weight or bias."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, clipped=config.has("clip_qkv"))
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*attention_tensors, *mlp_tensors),
        norm=NormKind.LAYER_FLOAT32,
        norm_weights=False,
    )
    return decoder(config, shape, (block,), norm_weights=False)


def olmo2(config: ConfigReader) -> Architecture:
    """OLMo 2: norms of outputs, and of queries and keys over their whole width."""
    return _olmo(config, every=1)


def olmo3(config: ConfigReader) -> Architecture:
    """OLMo 3: OLMo 2 with a window on three of four layers."""
    return _olmo(config, every=4, window=4096)


def _olmo(config: ConfigReader, *, every: int, window: int = 0) -> Architecture:
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, query_key_norm=True)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    tensors = (
        *attention_tensors,
        *norm("query_key_norm", shape.query_width),
        *norm("query_key_norm", shape.key_width),
        *mlp_tensors,
        *block_norms(shape, 2),
    )
    blocks = layers_of(
        layer_windows(config, shape.layers, every=every, window=window),
        lambda width: Block(
            1,
            replace(attention, window=width),
            mlp,
            tensors,
            norm=NormKind.RMS_FLOAT32,
            placement=NormPlacement.OUTPUT,
        ),
    )
    return decoder(config, shape, blocks)
