"""Models whose code came with the weights (trust_remote_code), as far as their config.json tells: Qwen 1, Baichuan, ChatGLM, InternLM.

transformers has no classes for them, so these layouts are compared with the totals of the published weights; InternLM 1 with nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, Positions
from finetune_operator.memory.config_reader import ConfigError, ConfigReader, read_shape
from finetune_operator.memory.layout import block_norms, decoder, gated_mlp, joined_attention, separate_attention

BAICHUAN_13B_HIDDEN: Final = 5120
"""Hidden size from which Baichuan uses ALiBi; its config.json does not say which of the two it is."""


def qwen(config: ConfigReader) -> Architecture:
    """Qwen 1 (modeling_qwen.py): c_attn with bias, c_proj without; its config's intermediate_size counts gate and up together."""
    shape = read_shape(config)
    width = config.whole("intermediate_size") // 2
    attention, tensors = joined_attention(shape, "c_attn", "c_proj", bias=True)
    mlp, mlp_tensors = gated_mlp(shape.hidden, width, inputs=("w2", "w1"), output="c_proj")
    block = Block(shape.layers, attention, mlp, (*tensors, *mlp_tensors, *block_norms(shape, 2)))
    return decoder(config, replace(shape, intermediate=width), (block,))


def baichuan(config: ConfigReader) -> Architecture:
    """Baichuan 1 and 2 (modeling_baichuan.py): query, key and value in W_pack; 13B has ALiBi, 7B rotary embedding."""
    shape = read_shape(config)
    attention, tensors = joined_attention(shape, "W_pack", "o_proj")
    alibi = shape.hidden >= BAICHUAN_13B_HIDDEN
    attention = replace(attention, positions=Positions.ALIBI if alibi else Positions.ROTARY)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    block = Block(shape.layers, attention, mlp, (*tensors, *mlp_tensors, *block_norms(shape, 2)))
    return decoder(config, shape, (block,))


def chatglm(config: ConfigReader) -> Architecture:
    """ChatGLM 2 and 3, GLM-4-9B's first release (modeling_chatglm.py): gate and up in dense_h_to_4h, half of each head turned."""
    if config.has("inner_hidden_size"):
        raise ConfigError("inner_hidden_size belongs to ChatGLM 1, whose layout is not known; use ChatGLM 2 or later")
    shape = read_shape(config, head_dim=config.whole("kv_channels", default=128))
    groups = (
        config.whole("multi_query_group_num", "num_key_value_heads", default=2)
        if config.flag("multi_query_attention", default=True)
        else shape.heads
    )
    shape = replace(shape, kv_heads=groups)
    attention, tensors = joined_attention(
        shape,
        "query_key_value",
        "dense",
        bias=config.flag("add_qkv_bias", default=True) or config.flag("add_bias_linear", default=False),
        output_bias=config.flag("add_bias_linear", default=False),
    )
    mlp, mlp_tensors = gated_mlp(
        shape.hidden,
        shape.intermediate,
        inputs=("dense_h_to_4h",),
        output="dense_4h_to_h",
        bias=config.flag("add_bias_linear", default=False),
    )
    block = Block(
        shape.layers,
        replace(attention, rotary_share=0.5),
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2)),
    )
    return decoder(config, shape, (block,))


def internlm(config: ConfigReader) -> Architecture:
    """InternLM 1 (modeling_internlm.py): a Llama with biases in attention."""
    shape = read_shape(config)
    bias = config.flag("bias", default=True)
    attention, tensors = separate_attention(shape, bias=bias, output_bias=bias)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    block = Block(shape.layers, attention, mlp, (*tensors, *mlp_tensors, *block_norms(shape, 2)))
    return decoder(config, shape, (block,))


def internlm2(config: ConfigReader) -> Architecture:
    """InternLM 2 (modeling_internlm2.py): query, key and value in wqkv, MLP of w1, w3 and w2."""
    shape = read_shape(config)
    bias = config.flag("bias", default=False)
    attention, tensors = joined_attention(shape, "wqkv", "wo", bias=bias, output_bias=bias)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate, inputs=("w1", "w3"), output="w2")
    block = Block(shape.layers, attention, mlp, (*tensors, *mlp_tensors, *block_norms(shape, 2)))
    return decoder(config, shape, (block,))
