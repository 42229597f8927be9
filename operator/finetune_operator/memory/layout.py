"""The tensors that decoders are made of: linear layers, norms, embeddings, attention, MLP, experts."""

from __future__ import annotations

from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture
from finetune_operator.memory.blocks import Attention, Block, FeedForward, NormKind, NormPlacement, Tensor, TensorClass
from finetune_operator.memory.config_reader import Shape


def linear(name: str, kind: TensorClass, inputs: int, outputs: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the weight of a linear layer, and its bias if it has one."""
    weight = Tensor(name, kind, (outputs, inputs), linear=True, in_features=inputs, out_features=outputs)
    return (weight, Tensor(name, kind, (outputs,))) if bias else (weight,)


def norm(name: str, width: int, copies: int = 1, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the weight of a norm, and its bias if it has one."""
    weight = Tensor(name, TensorClass.NORM, (width,), copies)
    return (weight, weight) if bias else (weight,)


def embeddings(vocabulary: int, hidden: int, *, tied: bool) -> tuple[Tensor, ...]:
    """Return the input embedding, and the output head where it is not the same tensor."""
    embedding = Tensor(EMBEDDING_NAME, TensorClass.EMBEDDING, (vocabulary, hidden))
    return (embedding,) if tied else (embedding, Tensor("lm_head", TensorClass.HEAD, (vocabulary, hidden)))


def attention(
    shape: Shape, *, bias: bool = False, output_bias: bool = False, output: str = "o_proj"
) -> tuple[Tensor, ...]:
    """Return separate query, key, value and output projections."""
    kind = TensorClass.ATTENTION
    return (
        *linear("q_proj", kind, shape.hidden, shape.query_width, bias=bias),
        *linear("k_proj", kind, shape.hidden, shape.key_width, bias=bias),
        *linear("v_proj", kind, shape.hidden, shape.key_width, bias=bias),
        *linear(output, kind, shape.query_width, shape.hidden, bias=output_bias),
    )


def gated_mlp(hidden: int, width: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return gate, up and down projections."""
    kind = TensorClass.MLP
    return (
        *linear("gate_proj", kind, hidden, width, bias=bias),
        *linear("up_proj", kind, hidden, width, bias=bias),
        *linear("down_proj", kind, width, hidden, bias=bias),
    )


def block_norms(shape: Shape, count: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the `count` norms of one layer."""
    return norm("block_norm", shape.hidden, count, bias=bias)


def head_norms(shape: Shape) -> tuple[Tensor, ...]:
    """Return the norms of queries and keys, one weight per element of a head."""
    return norm("query_key_norm", shape.head_dim, 2)


def expert_tensors(hidden: int, width: int, experts: int) -> tuple[Tensor, ...]:
    """Experts are two three-dimensional parameters since transformers 5: no linear modules, so neither adapted nor quantised."""
    return (
        Tensor("gate", TensorClass.ROUTER, (experts, hidden)),
        Tensor("experts", TensorClass.EXPERTS, (experts, 2 * width, hidden)),
        Tensor("experts", TensorClass.EXPERTS, (experts, hidden, width)),
    )


def assemble(
    model_type: str,
    shape: Shape,
    tensors: tuple[Tensor, ...],
    *,
    norm: NormKind = NormKind.RMS,
    norm_bias: bool = False,
    sandwich_norms: bool = False,
    query_key_norm: bool = False,
    gated: bool = True,
    activation: str = "silu",
    attention_inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
    attention_output: str = "o_proj",
    mlp_inputs: tuple[str, ...] = ("gate_proj", "up_proj"),
    mlp_output: str = "down_proj",
    residual_dropout: float = 0.0,
    experts: int = 0,
    experts_per_token: int = 0,
    outer: tuple[Tensor, ...] = (),
) -> Architecture:
    """Return a decoder whose layers are all alike: `tensors` are those of one layer; embeddings, last norm and head are added to `outer`."""
    block = Block(
        copies=shape.layers,
        attention=Attention(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            inputs=attention_inputs,
            output=attention_output,
            query_key_norm=query_key_norm,
        ),
        feed_forward=FeedForward(
            width=shape.intermediate,
            gated=gated,
            activation=activation,
            inputs=mlp_inputs,
            output=mlp_output,
            experts=experts,
            experts_per_token=experts_per_token,
        ),
        tensors=tensors,
        norm=norm,
        placement=NormPlacement.AROUND if sandwich_norms else NormPlacement.BEFORE,
        norms=4 if sandwich_norms else 2,
        residual_dropout=residual_dropout,
    )
    return decoder(model_type, shape, (block,), norm_bias=norm_bias, outer=outer)


def decoder(
    model_type: str,
    shape: Shape,
    blocks: tuple[Block, ...],
    *,
    norm_bias: bool = False,
    outer: tuple[Tensor, ...] = (),
) -> Architecture:
    """Return a decoder of these blocks; embeddings, last norm and head are added to `outer`."""
    return Architecture(
        model_type=model_type,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied,
        blocks=blocks,
        outer=(
            *embeddings(shape.vocabulary, shape.hidden, tied=shape.tied),
            *outer,
            *_norm_tensors("final_norm", shape.hidden, bias=norm_bias),
        ),
        max_positions=shape.max_positions,
    )


_norm_tensors = norm
"""`assemble` has an argument named norm."""
