"""GPT-2 and its kind: LayerNorm with biases and an MLP of two matrices, attention and MLP one after the other."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, NormKind, NormPlacement, Positions, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape, layer_windows, read_shape, rotary_share
from finetune_operator.memory.layout import (
    block_norms,
    decoder,
    embedding,
    joined_attention,
    layers_of,
    linear,
    norm,
    plain_mlp,
    separate_attention,
)


def gpt2(config: ConfigReader) -> Architecture:
    """GPT-2: one Conv1D for query, key and value, learned positions, gelu_new written out in several kernels."""
    shape = read_shape(config, tied=True, intermediate=4, positions=1024)
    attention, tensors = joined_attention(shape, "c_attn", "c_proj", bias=True, output_bias=True)
    attention = replace(attention, positions=Positions.ABSOLUTE, float32_softmax=False, narrows_softmax=True)
    return _gpt2(config, shape, attention, tensors, activation="gelu_new")


def gpt_bigcode(config: ConfigReader) -> Architecture:
    """GPT-BigCode (SantaCoder, StarCoder): GPT-2 with linear modules, and one head of key and value for all queries."""
    shape = read_shape(config, tied=True, intermediate=4, positions=1024)
    shape = replace(shape, kv_heads=1 if config.flag("multi_query", default=True) else shape.heads)
    attention, tensors = joined_attention(shape, "c_attn", "c_proj", bias=True, output_bias=True)
    attention = replace(attention, positions=Positions.ABSOLUTE)
    return _gpt2(config, shape, attention, tensors, activation="gelu_pytorch_tanh")


def _gpt2(
    config: ConfigReader, shape: Shape, attention: Attention, tensors: tuple[Tensor, ...], *, activation: str
) -> Architecture:
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("c_fc", "c_proj"),
        activation=config.text("activation_function", activation),
    )
    block = Block(
        shape.layers,
        replace(attention, dropout=config.number("attn_pdrop", 0.1)),
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True)),
        norm=NormKind.LAYER,
        residual_dropout=config.number("resid_pdrop", 0.1),
    )
    positions = embedding("wpe", shape.max_positions, shape.hidden)
    found = decoder(config, shape, (block,), norm_bias=True, outer=(positions,))
    return replace(found, embedding_dropout=config.number("embd_pdrop", 0.1))


def starcoder2(config: ConfigReader) -> Architecture:
    """StarCoder 2: grouped heads, rotary embedding, biases unless use_bias is off."""
    shape = read_shape(config, tied=True, kv_heads=2)
    bias = config.flag("use_bias", default=True)
    attention, tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, dropout=config.number("attention_dropout", 0.0))
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("c_fc", "c_proj"),
        activation=config.text("hidden_act", "gelu_pytorch_tanh"),
        bias=bias,
    )
    tensors = (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True))
    dropout = config.number("residual_dropout", 0.0)
    blocks = layers_of(
        layer_windows(config, shape.layers, every=0),
        lambda window: Block(
            1,
            replace(attention, window=window),
            mlp,
            tensors,
            norm=NormKind.LAYER,
            residual_dropout=dropout,
        ),
    )
    found = decoder(config, shape, blocks, norm_bias=True)
    return replace(found, embedding_dropout=config.number("embedding_dropout", 0.0))


def nemotron(config: ConfigReader) -> Architecture:
    """Nemotron 3 and 4, Minitron: LayerNorm with 1 added to its weight, squared ReLU."""
    shape = read_shape(config)
    bias = config.flag("attention_bias", default=False)
    attention, tensors = separate_attention(shape, bias=bias, output_bias=bias)
    attention = replace(attention, rotary_share=rotary_share(config, 0.5))
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("up_proj", "down_proj"),
        activation=config.text("hidden_act", "relu2"),
        bias=config.flag("mlp_bias", default=False),
    )
    tensors = (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True))
    return decoder(config, shape, (Block(shape.layers, attention, mlp, tensors, norm=NormKind.LAYER),), norm_bias=True)


def bloom(config: ConfigReader) -> Architecture:
    """Bloom: ALiBi, a norm behind the embeddings; transformers runs it eager."""
    shape = read_shape(config, tied=True, intermediate=4)
    # The class takes no other width, whatever the config says.
    shape = replace(shape, intermediate=4 * shape.hidden)
    attention, tensors = joined_attention(shape, "query_key_value", "dense", bias=True, output_bias=True)
    attention = replace(
        attention,
        positions=Positions.ALIBI,
        sdpa=False,
        flash=False,
        dropout=config.number("attention_dropout", 0.0),
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden, shape.intermediate, ("dense_h_to_4h", "dense_4h_to_h"), activation="gelu_pytorch_tanh"
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True)),
        norm=NormKind.LAYER,
        residual_dropout=config.number("hidden_dropout", 0.0),
    )
    outer = norm("embedding_norm", shape.hidden, bias=True)
    return replace(decoder(config, shape, (block,), norm_bias=True, outer=outer), embedding_norm=True)


def opt(config: ConfigReader) -> Architecture:
    """OPT: ReLU, learned positions (two rows more than positions); OPT-350m has norms behind the sums and narrower embeddings."""
    shape = read_shape(config, tied=True, positions=2048)
    shape = replace(shape, intermediate=config.whole("ffn_dim", "intermediate_size"))
    bias, affine = config.flag("enable_bias", default=True), config.flag("layer_norm_elementwise_affine", default=True)
    before = config.flag("do_layer_norm_before", default=True)
    width = config.whole("word_embed_proj_dim", default=shape.hidden)
    attention, tensors = separate_attention(shape, output="out_proj", bias=bias, output_bias=bias)
    attention = replace(attention, positions=Positions.ABSOLUTE, dropout=config.number("attention_dropout", 0.0))
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        ("fc1", "fc2"),
        activation=config.text("activation_function", "relu"),
        bias=bias,
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *(block_norms(shape, 2, bias=True) if affine else ())),
        norm=NormKind.LAYER,
        placement=NormPlacement.BEFORE if before else NormPlacement.SUM,
        norm_weights=affine,
        residual_dropout=config.number("dropout", 0.1),
    )
    projections = (
        ()
        if width == shape.hidden
        else (
            *linear("project_in", TensorClass.EMBEDDING, width, shape.hidden),
            *linear("project_out", TensorClass.EMBEDDING, shape.hidden, width),
        )
    )
    return decoder(
        config,
        shape,
        (block,),
        outer=(embedding("embed_positions", shape.max_positions + 2, shape.hidden), *projections),
        norm_bias=True,
        norm_weights=affine,
        final_norm=before and not config.flag("_remove_final_layer_norm", default=False),
        head_width=width,
    )


def mpt(config: ConfigReader) -> Architecture:
    """MPT: ALiBi, no biases anywhere; transformers runs it eager."""
    shape = read_shape(config, tied=True, intermediate=4)
    shape = replace(shape, intermediate=4 * shape.hidden)
    settings = config.nested("attn_config")
    attention, tensors = joined_attention(shape, "Wqkv", "out_proj")
    attention = replace(
        attention,
        positions=Positions.ALIBI,
        sdpa=False,
        flash=False,
        clipped=settings.has("clip_qkv"),
        dropout=settings.number("attn_pdrop", 0.0),
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden, shape.intermediate, ("up_proj", "down_proj"), activation="gelu", bias=False
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2)),
        norm=NormKind.LAYER,
        residual_dropout=settings.number("attn_pdrop", 0.0),
    )
    return decoder(config, shape, (block,))
