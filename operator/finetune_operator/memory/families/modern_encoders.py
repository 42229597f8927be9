"""Encoders that are not BERT's layers: ModernBERT (pre-norm, windows, gated MLP) and DeBERTa (disentangled attention)."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.memory.architecture import Architecture, Head
from finetune_operator.memory.blocks import Attention, Block, NormKind, NormPlacement, Positions, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape, read_shape
from finetune_operator.memory.families.encoders import BERT, HEAD, with_head
from finetune_operator.memory.layout import (
    block_norms,
    embedding,
    gated_mlp,
    joined_attention,
    layers_of,
    linear,
    norm,
    plain_mlp,
    separate_attention,
)


def modernbert(config: ConfigReader) -> Architecture:
    """ModernBERT: the first layer has no norm before attention; all but every third layer see 64 tokens to each side."""
    shape = read_shape(config, tied=True)
    bias, norm_bias = config.flag("attention_bias", default=False), config.flag("norm_bias", default=False)
    attention, tensors = joined_attention(shape, "Wqkv", "Wo", bias=bias, output_bias=bias)
    attention = replace(attention, causal=False, dropout=config.number("attention_dropout", 0.0))
    mlp, mlp_tensors = gated_mlp(
        shape.hidden,
        shape.intermediate,
        inputs=("Wi",),
        output="Wo",
        activation=config.text("hidden_activation", "gelu"),
        bias=config.flag("mlp_bias", default=False),
    )
    mlp = replace(mlp, dropout=config.number("mlp_dropout", 0.0))

    def build(kind: tuple[int, int]) -> Block:
        norms, window = kind
        every = (*tensors, *mlp_tensors, *block_norms(shape, norms, bias=norm_bias))
        return Block(1, replace(attention, window=window), mlp, every, norm=NormKind.LAYER, norms=norms)

    kinds = ((1 if index == 0 else 2, window) for index, window in enumerate(_modernbert_windows(config, shape.layers)))
    last = norm("final_norm", shape.hidden, bias=norm_bias)
    return Architecture(
        model_type=config.model_type,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied and config.head is Head.MASKED_LM,
        blocks=layers_of(kinds, build),
        outer=(
            embedding("tok_embeddings", shape.vocabulary, shape.hidden),
            *norm("embedding_norm", shape.hidden, bias=norm_bias),
            *last,
            *_modernbert_head(config, shape, norm_bias=norm_bias),
        ),
        max_positions=shape.max_positions,
        head=config.head,
        labels=config.head_labels,
        embedding_norm=True,
        embedding_dropout=config.number("embedding_dropout", 0.0),
    )


def _modernbert_windows(config: ConfigReader, layers: int) -> tuple[int, ...]:
    width = config.count("local_attention", "sliding_window", default=128)
    types = config.texts("layer_types")
    if types is not None and len(types) == layers:
        return tuple(width if kind == "sliding_attention" else 0 for kind in types)
    every = config.whole("global_attn_every_n_layers", default=3)
    return tuple(width if index % every else 0 for index in range(layers))


def _modernbert_head(config: ConfigReader, shape: Shape, *, norm_bias: bool) -> tuple[Tensor, ...]:
    if config.head not in (Head.MASKED_LM, Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION):
        return ()
    prediction = (
        *linear("dense", HEAD, shape.hidden, shape.hidden, bias=config.flag("classifier_bias", default=False)),
        *norm("transform_norm", shape.hidden, bias=norm_bias),
    )
    if config.head is not Head.MASKED_LM:
        shapes = ((config.labels, shape.hidden), (config.labels,))
        return (*prediction, *(Tensor("classifier", HEAD, each, task_head=True) for each in shapes))
    weight = () if shape.tied else (Tensor("decoder", HEAD, (shape.vocabulary, shape.hidden)),)
    bias = (Tensor("decoder", HEAD, (shape.vocabulary,)),) if config.flag("decoder_bias", default=True) else ()
    return (*prediction, *weight, *bias)


def deberta_v2(config: ConfigReader) -> Architecture:
    """DeBERTa V2 and V3: relative positions as a table of the hidden width; the xlarge models have a convolution beside the first layer."""
    shape = read_shape(config, tied=True, positions=512)
    scored, shared = _position_scores(config), config.flag("share_att_key", default=False)
    names, kind = ("query_proj", "key_proj", "value_proj"), TensorClass.ATTENTION
    attention, tensors = separate_attention(shape, inputs=names, output="dense", bias=True, output_bias=True)
    relative = config.flag("relative_attention", default=False)
    positions = (
        tuple(
            tensor
            for score, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj"))
            if score in scored
            for tensor in linear(name, kind, shape.hidden, shape.query_width, bias=True)
        )
        if relative and not shared
        else ()
    )
    buckets = config.config.get("position_buckets")
    spread = buckets if isinstance(buckets, int) and buckets > 0 else _relative_positions(config, shape)
    tables = (embedding("rel_embeddings", 2 * spread, shape.hidden),) if relative else ()
    extra = (
        *(
            norm("rel_embeddings_norm", shape.hidden, bias=True)
            if "layer_norm" in config.text("norm_rel_ebd", "none")
            else ()
        ),
        *_convolution(config, shape),
    )
    attention = replace(attention, positions=Positions.DISENTANGLED if relative else Positions.ABSOLUTE)
    blocks = _deberta_blocks(config, shape, attention, (*tensors, *positions))
    return _deberta(config, shape, blocks, (*tables, *extra))


def deberta(config: ConfigReader) -> Architecture:
    """DeBERTa V1: query, key and value in one projection, whose biases are parameters of their own."""
    shape = read_shape(config, tied=True, positions=512)
    scored, relative = _position_scores(config), config.flag("relative_attention", default=False)
    attention, tensors = joined_attention(shape, "in_proj", "dense", output_bias=True)
    kind = TensorClass.ATTENTION
    biases = (Tensor("q_bias", kind, (shape.query_width,)), Tensor("v_bias", kind, (shape.query_width,)))
    positions = (
        (
            *(linear("pos_proj", kind, shape.hidden, shape.query_width) if "c2p" in scored else ()),
            *(linear("pos_q_proj", kind, shape.hidden, shape.query_width, bias=True) if "p2c" in scored else ()),
        )
        if relative
        else ()
    )
    tables = (embedding("rel_embeddings", 2 * _relative_positions(config, shape), shape.hidden),) if relative else ()
    attention = replace(attention, positions=Positions.DISENTANGLED if relative else Positions.ABSOLUTE)
    blocks = _deberta_blocks(config, shape, attention, (*tensors, *biases, *positions))
    return _deberta(config, shape, blocks, tables)


def _position_scores(config: ConfigReader) -> tuple[str, ...]:
    """pos_att_type is a list, or one text with bars between (the published configs)."""
    value = config.config.get("pos_att_type")
    return tuple(value.lower().split("|")) if isinstance(value, str) else config.texts("pos_att_type") or ()


def _relative_positions(config: ConfigReader, shape: Shape) -> int:
    value = config.config.get("max_relative_positions")
    return value if isinstance(value, int) and value > 0 else shape.max_positions


def _convolution(config: ConfigReader, shape: Shape) -> tuple[Tensor, ...]:
    size = config.count("conv_kernel_size")
    if not size:
        return ()
    inputs = shape.hidden // config.whole("conv_groups", default=1)
    kind = TensorClass.MLP
    return (
        Tensor("conv", kind, (shape.hidden, inputs, size)),
        Tensor("conv", kind, (shape.hidden,)),
        *norm("conv_norm", shape.hidden, bias=True),
    )


def _deberta_blocks(
    config: ConfigReader, shape: Shape, attention: Attention, tensors: tuple[Tensor, ...]
) -> tuple[Block, ...]:
    mlp, mlp_tensors = plain_mlp(
        shape.hidden, shape.intermediate, ("dense", "dense"), activation=config.text("hidden_act", "gelu")
    )
    block = Block(
        shape.layers,
        replace(
            attention,
            causal=False,
            sdpa=False,
            flash=False,
            dropout=config.number("attention_probs_dropout_prob", 0.1),
        ),
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True)),
        norm=NormKind.LAYER,
        placement=NormPlacement.SUM,
        residual_dropout=config.number("hidden_dropout_prob", 0.1),
    )
    return (block,)


def _deberta(
    config: ConfigReader, shape: Shape, blocks: tuple[Block, ...], relative: tuple[Tensor, ...]
) -> Architecture:
    """Embeddings as the config has them; AutoModel has no pooler, a classifier has one."""
    width = config.whole("embedding_size", default=shape.hidden)
    types = config.count("type_vocab_size")
    outer = (
        embedding("word_embeddings", shape.vocabulary, width),
        *(
            (embedding("position_embeddings", shape.max_positions, width),)
            if config.flag("position_biased_input", default=True)
            else ()
        ),
        *((embedding("token_type_embeddings", types, width),) if types else ()),
        *(linear("embed_proj", TensorClass.EMBEDDING, width, shape.hidden) if width != shape.hidden else ()),
        *norm("embedding_norm", shape.hidden, bias=True),
        *relative,
    )
    names = replace(BERT, pooler_when_bare=False)
    return with_head(config, shape, blocks, names, outer, width, dropout=config.number("hidden_dropout_prob", 0.1))
