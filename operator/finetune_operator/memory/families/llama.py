"""Llama and the decoders that differ from it in biases, norms of queries and keys, windows or scale: pre-norm, RMS norm, gated MLP."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import (
    Block,
    Positions,
)
from finetune_operator.memory.config_reader import ConfigReader, layer_windows, read_shape
from finetune_operator.memory.layout import (
    block_norms,
    decoder,
    gated_mlp,
    head_norms,
    layers_of,
    plain_mlp,
    separate_attention,
)


def llama(config: ConfigReader) -> Architecture:
    """Llama 1 to 3 and Yi; biases only where the config says so."""
    return _plain(config, bias=config.flag("attention_bias", default=False))


def mistral(config: ConfigReader) -> Architecture:
    """Mistral, Ministral, Devstral: a window on every layer where the config has one."""
    return _plain(config, kv_heads=8, windows=True)


def granite(config: ConfigReader) -> Architecture:
    """Granite: embeddings, residual branches and logits are multiplied by numbers."""
    found = _plain(config, bias=config.flag("attention_bias", default=False))
    blocks = tuple(replace(block, residual_scaled=True) for block in found.blocks)
    return replace(found, blocks=blocks, embedding_scaled=True, logits_scaled=True)


def seed_oss(config: ConfigReader) -> Architecture:
    """Seed-OSS: biases on query, key and value, and by default none on the output."""
    return _plain(
        config,
        bias=config.flag("attention_bias", default=True),
        output_bias=config.flag("attention_out_bias", default=False),
    )


def qwen2(config: ConfigReader) -> Architecture:
    """Qwen 1.5, 2 and 2.5: biases on query, key and value. Windows only with use_sliding_window, from max_window_layers on."""
    shape = read_shape(config, kv_heads=32)
    attention, attention_tensors = separate_attention(shape, bias=True)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    tensors = (*attention_tensors, *mlp_tensors, *block_norms(shape, 2))
    blocks = layers_of(
        qwen_windows(config, shape.layers),
        lambda window: Block(1, replace(attention, window=window), mlp, tensors),
    )
    return decoder(config, shape, blocks)


def qwen_windows(config: ConfigReader, layers: int) -> tuple[int, ...]:
    """Return each layer's window; Qwen's configs name a window that is not used unless use_sliding_window says so."""
    if not config.flag("use_sliding_window", default=False):
        return (0,) * layers
    if config.has("layer_types"):
        return layer_windows(config, layers)
    first = config.count("max_window_layers", default=28)
    return tuple(config.count("sliding_window") if index >= first else 0 for index in range(layers))


def qwen3(config: ConfigReader) -> Architecture:
    """Qwen 3: norms of each head's query and key."""
    shape = read_shape(config, head_dim=128, kv_heads=32)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, query_key_norm=True)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    tensors = (*attention_tensors, *head_norms(shape), *mlp_tensors, *block_norms(shape, 2))
    blocks = layers_of(
        qwen_windows(config, shape.layers),
        lambda window: Block(1, replace(attention, window=window), mlp, tensors),
    )
    return decoder(config, shape, blocks)


def smollm3(config: ConfigReader) -> Architecture:
    """SmolLM 3: every fourth layer is without rotary embedding."""
    shape = read_shape(config, tied=True, heads=16, kv_heads=4)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate, bias=config.flag("mlp_bias", default=False))
    tensors = (*attention_tensors, *mlp_tensors, *block_norms(shape, 2))
    blocks = layers_of(
        layer_positions(config, shape.layers),
        lambda positions: Block(1, replace(attention, positions=positions), mlp, tensors),
    )
    return decoder(config, shape, blocks)


def layer_positions(config: ConfigReader, layers: int) -> tuple[Positions, ...]:
    """Return which layers turn queries and keys: `no_rope_layers` has a 1 for those that do, else every no_rope_layer_interval-th does not."""
    listed = config.wholes("no_rope_layers")
    interval = config.whole("no_rope_layer_interval", default=4)
    turned = listed if listed else tuple(int((index + 1) % interval != 0) for index in range(layers))
    return tuple(Positions.ROTARY if flag else Positions.NONE for flag in turned)


def arcee(config: ConfigReader) -> Architecture:
    """Arcee's AFM: a Llama whose MLP is two matrices with a squared ReLU."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, attention_tensors = separate_attention(shape, bias=bias, output_bias=bias)
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("up_proj", "down_proj"),
        activation=config.text("hidden_act", "relu2"),
        bias=config.flag("mlp_bias", default=False),
    )
    block = Block(shape.layers, attention, mlp, (*attention_tensors, *mlp_tensors, *block_norms(shape, 2)))
    return decoder(config, shape, (block,))


def _plain(
    config: ConfigReader,
    *,
    bias: bool = False,
    output_bias: bool | None = None,
    kv_heads: int | None = None,
    windows: bool = False,
) -> Architecture:
    shape = read_shape(config, kv_heads=kv_heads)
    attention, attention_tensors = separate_attention(
        shape, bias=bias, output_bias=bias if output_bias is None else output_bias
    )
    mlp, mlp_tensors = gated_mlp(
        shape.hidden,
        shape.intermediate,
        activation=config.text("hidden_act", "silu"),
        bias=config.flag("mlp_bias", default=False),
    )
    tensors = (*attention_tensors, *mlp_tensors, *block_norms(shape, 2))
    blocks = layers_of(
        layer_windows(config, shape.layers, every=0) if windows else (0,) * shape.layers,
        lambda window: Block(1, replace(attention, window=window), mlp, tensors),
    )
    return decoder(config, shape, blocks)
