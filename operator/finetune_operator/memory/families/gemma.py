"""Gemma 1 to 3 (text): norms in float32, wide heads, tied and scaled embeddings, and from Gemma 2 on four norms a layer and windows."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, NormKind, NormPlacement
from finetune_operator.memory.config_reader import ConfigReader, layer_windows, read_shape
from finetune_operator.memory.layout import block_norms, decoder, gated_mlp, head_norms, layers_of, separate_attention


def gemma(config: ConfigReader) -> Architecture:
    """Gemma 1: norms in float32, wide heads, embeddings multiplied by √hidden."""
    return _gemma(config, sandwich=False, head_norm=False, kv_heads=16, every=1, activation="gelu_pytorch_tanh")


def gemma2(config: ConfigReader) -> Architecture:
    """Gemma 2: four norms a layer, every other layer with a window, scores and logits capped by a tanh."""
    found = _gemma(config, sandwich=True, head_norm=False, kv_heads=4, every=2, activation="gelu_pytorch_tanh")
    softcap = config.number("attn_logit_softcapping", 0.0 if "attn_logit_softcapping" in config.config else 50.0) > 0
    capped = config.number("final_logit_softcapping", 0.0 if "final_logit_softcapping" in config.config else 30.0) > 0
    blocks = tuple(
        replace(block, attention=replace(block.attention, softcap=softcap, sdpa=False)) for block in found.blocks
    )
    return replace(found, blocks=blocks, logits_capped=capped)


def gemma3(config: ConfigReader) -> Architecture:
    """Gemma 3 (text): norms of queries and keys, and five layers with a window to one without."""
    return _gemma(config, sandwich=True, head_norm=True, kv_heads=4, every=6, activation="gelu_pytorch_tanh")


def _gemma(
    config: ConfigReader, *, sandwich: bool, head_norm: bool, kv_heads: int, every: int, activation: str
) -> Architecture:
    # The published configs of Gemma 3's multimodal models leave out whatever equals the class's default.
    shape = read_shape(config, tied=True, heads=8, head_dim=256, kv_heads=kv_heads, vocabulary=262_208)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, query_key_norm=head_norm)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate, activation=activation)
    norms = 4 if sandwich else 2
    tensors = (
        *attention_tensors,
        *(head_norms(shape) if head_norm else ()),
        *mlp_tensors,
        *block_norms(shape, norms),
    )
    blocks = layers_of(
        layer_windows(config, shape.layers, every=every, window=4096),
        lambda window: Block(
            1,
            replace(attention, window=window),
            mlp,
            tensors,
            norm=NormKind.RMS_FLOAT32,
            placement=NormPlacement.AROUND if sandwich else NormPlacement.BEFORE,
            norms=norms,
        ),
    )
    return replace(decoder(config, shape, blocks), embedding_scaled=True)
