"""The parts that models are made of: attention, feed-forward part and norms, each with its tensors, and how they become an architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import TypeVar

from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, Head
from finetune_operator.memory.blocks import Attention, Block, FeedForward, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape

Kind = TypeVar("Kind", bound=Hashable)

QKV = ("q_proj", "k_proj", "v_proj")
"""Names of separate query, key and value projections."""


def linear(
    name: str, kind: TensorClass, inputs: int, outputs: int, *, bias: bool = False, subclassed: bool = False
) -> tuple[Tensor, ...]:
    """Return the weight of a linear layer, and its bias if it has one."""
    weight = Tensor(
        name, kind, (outputs, inputs), linear=True, in_features=inputs, out_features=outputs, subclassed=subclassed
    )
    return (weight, Tensor(name, kind, (outputs,))) if bias else (weight,)


def norm(name: str, width: int, copies: int = 1, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the weight of a norm, and its bias if it has one."""
    weight = Tensor(name, TensorClass.NORM, (width,), copies)
    return (weight, weight) if bias else (weight,)


def embedding(name: str, rows: int, width: int) -> Tensor:
    """Return a table of `rows` vectors."""
    return Tensor(name, TensorClass.EMBEDDING, (rows, width))


def separate_attention(
    shape: Shape,
    *,
    inputs: tuple[str, str, str] = QKV,
    output: str = "o_proj",
    bias: bool = False,
    output_bias: bool = False,
) -> tuple[Attention, tuple[Tensor, ...]]:
    """Return attention whose query, key and value are projected one by one."""
    kind, widths = TensorClass.ATTENTION, (shape.query_width, shape.key_width, shape.key_width)
    projections = (
        linear(name, kind, shape.hidden, width, bias=bias) for name, width in zip(inputs, widths, strict=True)
    )
    tensors = (
        *(tensor for projection in projections for tensor in projection),
        *linear(output, kind, shape.query_width, shape.hidden, bias=output_bias),
    )
    return _attention(shape, inputs, output, bias=bias, output_bias=output_bias), tensors


def joined_attention(
    shape: Shape, name: str, output: str, *, bias: bool = False, output_bias: bool = False, subclassed: bool = False
) -> tuple[Attention, tuple[Tensor, ...]]:
    """Return attention whose query, key and value come out of one projection."""
    kind, width = TensorClass.ATTENTION, shape.query_width + 2 * shape.key_width
    tensors = (
        *linear(name, kind, shape.hidden, width, bias=bias, subclassed=subclassed),
        *linear(output, kind, shape.query_width, shape.hidden, bias=output_bias, subclassed=subclassed),
    )
    return _attention(shape, (name,), output, bias=bias, output_bias=output_bias), tensors


def _attention(shape: Shape, inputs: tuple[str, ...], output: str, *, bias: bool, output_bias: bool) -> Attention:
    return Attention(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        inputs=inputs,
        output=output,
        input_bias=bias,
        output_bias=output_bias,
    )


def gated_mlp(
    hidden: int,
    width: int,
    *,
    inputs: tuple[str, ...] = ("gate_proj", "up_proj"),
    output: str = "down_proj",
    activation: str = "silu",
    bias: bool = False,
) -> tuple[FeedForward, tuple[Tensor, ...]]:
    """Return a gated MLP: gate, up and down projections; a single name in `inputs` stands for gate and up in one."""
    kind, outputs = TensorClass.MLP, 2 * width // len(inputs)
    projections = (linear(name, kind, hidden, outputs, bias=bias) for name in inputs)
    tensors = (
        *(tensor for projection in projections for tensor in projection),
        *linear(output, kind, width, hidden, bias=bias),
    )
    return FeedForward(width=width, activation=activation, inputs=inputs, output=output, bias=bias), tensors


def plain_mlp(
    hidden: int,
    width: int,
    names: tuple[str, str],
    *,
    activation: str,
    bias: bool = True,
    subclassed: bool = False,
) -> tuple[FeedForward, tuple[Tensor, ...]]:
    """Return an MLP of two matrices with an activation function between."""
    kind = TensorClass.MLP
    tensors = (
        *linear(names[0], kind, hidden, width, bias=bias, subclassed=subclassed),
        *linear(names[1], kind, width, hidden, bias=bias, subclassed=subclassed),
    )
    part = FeedForward(width=width, gated=False, activation=activation, inputs=names[:1], output=names[1], bias=bias)
    return part, tensors


def block_norms(shape: Shape, count: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the `count` norms of one layer."""
    return norm("block_norm", shape.hidden, count, bias=bias)


def head_norms(shape: Shape) -> tuple[Tensor, ...]:
    """Return the norms of queries and keys, one weight per element of a head."""
    return norm("query_key_norm", shape.head_dim, 2)


def layers_of(kinds: Iterable[Kind], build: Callable[[Kind], Block]) -> tuple[Block, ...]:
    """Return one block per kind of layer, with as many copies as layers are of that kind, in order of first appearance."""
    return tuple(replace(build(kind), copies=copies) for kind, copies in Counter(kinds).items())


def decoder(
    config: ConfigReader,
    shape: Shape,
    blocks: tuple[Block, ...],
    *,
    outer: tuple[Tensor, ...] = (),
    norm_bias: bool = False,
    norm_weights: bool = True,
    final_norm: bool = True,
    head_bias: bool = False,
    head_width: int = 0,
) -> Architecture:
    """Return a decoder of these blocks with embedding, last norm and the head that the reader asks for.

    A sequence classifier is what AutoModelForSequenceClassification makes of a decoder: `score`, a matrix of labels × hidden. `head_width` is
    the width of embedding and head where it is not the hidden size (OPT-350m).
    """
    width = head_width or shape.hidden
    last = norm("final_norm", shape.hidden, bias=norm_bias) if final_norm and norm_weights else ()
    has_logits = config.head is Head.CAUSAL_LM
    return Architecture(
        model_type=config.model_type,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied and has_logits,
        blocks=blocks,
        outer=(
            embedding(EMBEDDING_NAME, shape.vocabulary, width),
            *outer,
            *last,
            *_decoder_head(config, shape, width, bias=head_bias),
        ),
        max_positions=shape.max_positions,
        head=config.head,
        labels=config.head_labels,
        final_norm=final_norm,
    )


def _decoder_head(config: ConfigReader, shape: Shape, width: int, *, bias: bool) -> tuple[Tensor, ...]:
    if config.head is Head.SEQUENCE_CLASSIFICATION:
        return (Tensor("score", TensorClass.HEAD, (config.labels, width), task_head=True),)
    if config.head is Head.TOKEN_CLASSIFICATION:
        shapes = ((config.labels, width), (config.labels,))
        return tuple(Tensor("score", TensorClass.HEAD, each, task_head=True) for each in shapes)
    if config.head is not Head.CAUSAL_LM:
        return ()
    weight = () if shape.tied else (Tensor("lm_head", TensorClass.HEAD, (shape.vocabulary, width)),)
    return (*weight, Tensor("lm_head", TensorClass.HEAD, (shape.vocabulary,))) if bias else weight
