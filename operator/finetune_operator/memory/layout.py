"""The tensors that decoders are made of: linear layers, norms, embeddings, attention, MLP, experts."""

from __future__ import annotations

from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, NormKind, Tensor, TensorClass
from finetune_operator.memory.config_reader import Shape


def linear(
    name: str, kind: TensorClass, inputs: int, outputs: int, copies: int, *, bias: bool = False
) -> tuple[Tensor, ...]:
    """Return the weight of a linear layer, and its bias if it has one."""
    weight = Tensor(name, kind, (outputs, inputs), copies, linear=True, in_features=inputs, out_features=outputs)
    return (weight, Tensor(name, kind, (outputs,), copies)) if bias else (weight,)


def norm(name: str, width: int, copies: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the weight of a norm, and its bias if it has one."""
    weight = Tensor(name, TensorClass.NORM, (width,), copies)
    return (weight, weight) if bias else (weight,)


def embeddings(vocabulary: int, hidden: int, *, tied: bool) -> tuple[Tensor, ...]:
    """Return the input embedding, and the output head where it is not the same tensor."""
    embedding = Tensor(EMBEDDING_NAME, TensorClass.EMBEDDING, (vocabulary, hidden), 1)
    return (embedding,) if tied else (embedding, Tensor("lm_head", TensorClass.HEAD, (vocabulary, hidden), 1))


def attention(
    shape: Shape, *, bias: bool = False, output_bias: bool = False, output: str = "o_proj"
) -> tuple[Tensor, ...]:
    """Return separate query, key, value and output projections."""
    kind, layers = TensorClass.ATTENTION, shape.layers
    return (
        *linear("q_proj", kind, shape.hidden, shape.query_width, layers, bias=bias),
        *linear("k_proj", kind, shape.hidden, shape.key_width, layers, bias=bias),
        *linear("v_proj", kind, shape.hidden, shape.key_width, layers, bias=bias),
        *linear(output, kind, shape.query_width, shape.hidden, layers, bias=output_bias),
    )


def gated_mlp(hidden: int, width: int, copies: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return gate, up and down projections."""
    kind = TensorClass.MLP
    return (
        *linear("gate_proj", kind, hidden, width, copies, bias=bias),
        *linear("up_proj", kind, hidden, width, copies, bias=bias),
        *linear("down_proj", kind, width, hidden, copies, bias=bias),
    )


def block_norms(shape: Shape, count: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return `count` norms per layer and the last one."""
    return (
        *norm("block_norm", shape.hidden, count * shape.layers, bias=bias),
        *norm("final_norm", shape.hidden, 1, bias=bias),
    )


def head_norms(shape: Shape) -> tuple[Tensor, ...]:
    """Return the norms of queries and keys, one weight per element of a head."""
    return norm("query_key_norm", shape.head_dim, 2 * shape.layers)


def expert_tensors(hidden: int, width: int, experts: int, layers: int) -> tuple[Tensor, ...]:
    """Experts are two three-dimensional parameters since transformers 5: no linear modules, so neither adapted nor quantised."""
    return (
        Tensor("gate", TensorClass.ROUTER, (experts, hidden), layers),
        Tensor("experts", TensorClass.EXPERTS, (experts, 2 * width, hidden), layers),
        Tensor("experts", TensorClass.EXPERTS, (experts, hidden, width), layers),
    )


def assemble(
    model_type: str,
    shape: Shape,
    tensors: tuple[Tensor, ...],
    *,
    norm: NormKind = NormKind.RMS,
    sandwich_norms: bool = False,
    query_key_norm: bool = False,
    gated: bool = True,
    fused_activation: bool = True,
    attention_inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
    attention_output: str = "o_proj",
    mlp_inputs: tuple[str, ...] = ("gate_proj", "up_proj"),
    mlp_output: str = "down_proj",
    residual_dropout: bool = False,
    experts: int = 0,
    experts_per_token: int = 0,
) -> Architecture:
    """Return the architecture of these tensors, with embeddings and head added."""
    return Architecture(
        model_type=model_type,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied,
        tensors=(*embeddings(shape.vocabulary, shape.hidden, tied=shape.tied), *tensors),
        norm=norm,
        sandwich_norms=sandwich_norms,
        query_key_norm=query_key_norm,
        gated=gated,
        fused_activation=fused_activation,
        attention_inputs=attention_inputs,
        attention_output=attention_output,
        mlp_inputs=mlp_inputs,
        mlp_output=mlp_output,
        residual_dropout=residual_dropout,
        experts=experts,
        experts_per_token=experts_per_token,
        max_positions=shape.max_positions,
    )
