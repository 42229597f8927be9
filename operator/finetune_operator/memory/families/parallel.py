"""Decoders whose attention and MLP read the residual stream side by side: GPT-J, GPT-NeoX, Phi 1 and 2, Falcon, StableLM, Cohere."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, NormKind, Positions, Tensor
from finetune_operator.memory.config_reader import ConfigReader, Shape, layer_windows, read_shape, rotary_share
from finetune_operator.memory.layout import (
    block_norms,
    decoder,
    gated_mlp,
    joined_attention,
    layers_of,
    norm,
    plain_mlp,
    separate_attention,
)


def gptj(config: ConfigReader) -> Architecture:
    """GPT-J: one norm for both, no biases in attention, one in the head; transformers has no SDPA for it."""
    shape = read_shape(config, intermediate=4, positions=2048)
    attention, tensors = separate_attention(shape, output="out_proj")
    turned = config.count("rotary_dim", default=64) or shape.head_dim
    attention = replace(
        attention, rotary_share=turned / shape.head_dim, sdpa=False, dropout=config.number("attn_pdrop", 0.0)
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("fc_in", "fc_out"),
        activation=config.text("activation_function", "gelu_new"),
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 1, bias=True)),
        norm=NormKind.LAYER,
        norms=1,
        parallel=True,
        residual_dropout=config.number("resid_pdrop", 0.0),
    )
    found = decoder(config, shape, (block,), norm_bias=True, head_bias=True)
    return replace(found, embedding_dropout=config.number("embd_pdrop", 0.0))


def gpt_neox(config: ConfigReader) -> Architecture:
    """GPT-NeoX and Pythia: a norm for each of the two."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=True)
    attention, tensors = joined_attention(shape, "query_key_value", "dense", bias=bias, output_bias=bias)
    attention = replace(
        attention, rotary_share=rotary_share(config, 0.25), dropout=config.number("attention_dropout", 0.0)
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("dense_h_to_4h", "dense_4h_to_h"),
        activation=config.text("hidden_act", "gelu"),
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True)),
        norm=NormKind.LAYER,
        parallel=config.flag("use_parallel_residual", default=True),
        residual_dropout=config.number("hidden_dropout", 0.0),
    )
    return decoder(config, shape, (block,), norm_bias=True)


def phi(config: ConfigReader) -> Architecture:
    """Phi 1, 1.5 and 2: one norm for both, biases everywhere, in the head too."""
    shape = read_shape(config, intermediate=4)
    attention, tensors = separate_attention(shape, output="dense", bias=True, output_bias=True)
    head_norm = config.flag("qk_layernorm", default=False)
    attention = replace(
        attention,
        query_key_norm=head_norm,
        rotary_share=rotary_share(config, 0.5),
        dropout=config.number("attention_dropout", 0.0),
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden, shape.intermediate, ("fc1", "fc2"), activation=config.text("hidden_act", "gelu_new")
    )
    norms = norm("query_key_norm", shape.head_dim, 2, bias=True) if head_norm else ()
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *norms, *block_norms(shape, 1, bias=True)),
        norm=NormKind.LAYER,
        norms=1,
        parallel=True,
        residual_dropout=config.number("resid_pdrop", 0.0),
    )
    found = decoder(config, shape, (block,), norm_bias=True, head_bias=True)
    return replace(found, embedding_dropout=config.number("embd_pdrop", 0.0))


def falcon(config: ConfigReader) -> Architecture:
    """Falcon 7B (parallel, one norm, one key head), 40B and 180B (two norms, grouped heads), RW (one after the other, ALiBi)."""
    shape = read_shape(config, tied=True, intermediate=4)
    new = config.flag("new_decoder_architecture", default=False)
    multi_query = config.flag("multi_query", default=True)
    parallel = new or config.flag("parallel_attn", default=True)
    grouped = config.whole("num_kv_heads", "n_head_kv", "num_key_value_heads", default=shape.heads)
    shape = replace(
        shape,
        kv_heads=grouped if new else 1 if multi_query else shape.heads,
        intermediate=config.whole("ffn_hidden_size", "intermediate_size", default=4 * shape.hidden),
    )
    parallel_norms = config.whole("num_ln_in_parallel_attn", default=2 if new else 1)
    norms = parallel_norms if parallel else 2
    bias = config.flag("bias", default=False)
    # FalconLinear derives from torch.nn.Linear; bitsandbytes integrations before transformers 5 replaced such modules as well.
    subclassed = config.transformers_major >= 5
    attention, tensors = joined_attention(
        shape, "query_key_value", "dense", bias=bias, output_bias=bias, subclassed=subclassed
    )
    attention = replace(
        attention,
        positions=Positions.ALIBI if config.flag("alibi", default=False) else Positions.ROTARY,
        dropout=config.number("attention_dropout", 0.0),
        always_masked=True,
        picked_heads=new or multi_query,
        spread_heads=new,
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("dense_h_to_4h", "dense_4h_to_h"),
        activation=config.text("activation", "gelu"),
        bias=bias,
        subclassed=subclassed,
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, norms, bias=True)),
        norm=NormKind.LAYER,
        norms=norms,
        parallel=parallel,
        residual_dropout=config.number("hidden_dropout", 0.0),
    )
    return decoder(config, shape, (block,), norm_bias=True)


def stablelm(config: ConfigReader) -> Architecture:
    """StableLM 2 and 3B-4E1T: LayerNorm and a gated MLP; StableLM 2 12B is parallel with norms of each head."""
    shape = read_shape(config)
    parallel = config.flag("use_parallel_residual", default=False)
    head_norm = config.flag("qk_layernorm", default=False)
    attention, tensors = separate_attention(shape, bias=config.flag("use_qkv_bias", default=False))
    attention = replace(
        attention,
        query_key_norm=head_norm,
        rotary_share=rotary_share(config, 0.25),
        dropout=config.number("attention_dropout", 0.0),
    )
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    count = 1 if parallel else 2
    # A norm per head, each with a weight of its own.
    norms = norm("query_key_norm", shape.head_dim, shape.heads + shape.kv_heads) if head_norm else ()
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *norms, *block_norms(shape, count, bias=True)),
        norm=NormKind.LAYER,
        norms=count,
        parallel=parallel,
        residual_dropout=config.number("hidden_dropout", 0.0),
    )
    return decoder(config, shape, (block,), norm_bias=True)


def cohere(config: ConfigReader) -> Architecture:
    """Command R (Cohere): one norm for both, norms of each head's query and key in Command R+, scaled logits."""
    shape = read_shape(config, tied=True)
    head_norm = config.flag("use_qk_norm", default=False)
    norms = norm("query_key_norm", shape.query_width + shape.key_width) if head_norm else ()
    return _cohere(config, shape, norms, ((0, Positions.ROTARY),) * shape.layers)


def cohere2(config: ConfigReader) -> Architecture:
    """Command R7B, Command A: three layers with window and rotary embedding to one with neither."""
    shape = read_shape(config, tied=True)
    windows = layer_windows(config, shape.layers, every=4, window=4096)
    kinds = tuple((window, Positions.ROTARY if window else Positions.NONE) for window in windows)
    return _cohere(config, shape, (), kinds)


def _cohere(
    config: ConfigReader, shape: Shape, head_norms: tuple[Tensor, ...], kinds: tuple[tuple[int, Positions], ...]
) -> Architecture:
    bias = config.flag("attention_bias", default=False)
    attention, tensors = separate_attention(shape, bias=bias, output_bias=bias)
    mlp, mlp_tensors = gated_mlp(shape.hidden, shape.intermediate)
    every = (*tensors, *mlp_tensors, *head_norms, *block_norms(shape, 1))
    blocks = layers_of(
        kinds,
        lambda kind: Block(
            1,
            replace(attention, query_key_norm=bool(head_norms), window=kind[0], positions=kind[1]),
            mlp,
            every,
            norm=NormKind.LAYER_FLOAT32,
            norms=1,
            parallel=True,
        ),
    )
    return replace(decoder(config, shape, blocks), logits_scaled=True)
