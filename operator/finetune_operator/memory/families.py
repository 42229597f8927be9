"""How each family of models lays out its tensors: one short function per `model_type`, read from transformers 5.23's modeling files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pydantic import JsonValue

from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, NormKind, Tensor, TensorClass


class ConfigError(ValueError):
    """A field of config.json is missing or not what it should be."""


@dataclass(frozen=True)
class ConfigReader:
    """Typed access to config.json; the first of several names that has a value counts."""

    config: Mapping[str, JsonValue]

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return a whole number of at least 1."""
        value = self._first(names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{names[0]} is {value!r}, but a whole number of at least 1 is needed")
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._first(names)
        return default if value is None else bool(value)

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        value = self.config.get(name)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: float) -> float:
        """Return a number."""
        value = self.config.get(name)
        return float(value) if isinstance(value, int | float) else default

    def _first(self, names: tuple[str, ...]) -> JsonValue:
        return next((self.config[name] for name in names if self.config.get(name) is not None), None)


Family = Callable[[ConfigReader], Architecture]


def _linear(
    name: str, kind: TensorClass, inputs: int, outputs: int, copies: int, *, bias: bool = False
) -> tuple[Tensor, ...]:
    weight = Tensor(name, kind, (outputs, inputs), copies, linear=True, in_features=inputs, out_features=outputs)
    return (weight, Tensor(name, kind, (outputs,), copies)) if bias else (weight,)


def _norm(name: str, width: int, copies: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    weight = Tensor(name, TensorClass.NORM, (width,), copies)
    return (weight, weight) if bias else (weight,)


def _embeddings(vocabulary: int, hidden: int, *, tied: bool) -> tuple[Tensor, ...]:
    embedding = Tensor(EMBEDDING_NAME, TensorClass.EMBEDDING, (vocabulary, hidden), 1)
    return (embedding,) if tied else (embedding, Tensor("lm_head", TensorClass.HEAD, (vocabulary, hidden), 1))


@dataclass(frozen=True)
class _Shape:
    """The widths that nearly every decoder's config names the same way."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    max_positions: int

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim


def _shape(
    config: ConfigReader, *, tied: bool = False, head_dim: int | None = None, kv_heads: int | None = None
) -> _Shape:
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    return _Shape(
        hidden=hidden,
        layers=config.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", default=kv_heads or heads),
        head_dim=config.whole("head_dim", default=head_dim or hidden // heads),
        intermediate=config.whole("intermediate_size"),
        vocabulary=config.whole("vocab_size"),
        tied=config.flag("tie_word_embeddings", default=tied),
        max_positions=config.whole("max_position_embeddings", default=0) if _has_positions(config) else 0,
    )


def _has_positions(config: ConfigReader) -> bool:
    return isinstance(config.config.get("max_position_embeddings"), int)


def _attention(
    shape: _Shape, *, bias: bool = False, output_bias: bool = False, output: str = "o_proj"
) -> tuple[Tensor, ...]:
    kind, layers = TensorClass.ATTENTION, shape.layers
    return (
        *_linear("q_proj", kind, shape.hidden, shape.query_width, layers, bias=bias),
        *_linear("k_proj", kind, shape.hidden, shape.key_width, layers, bias=bias),
        *_linear("v_proj", kind, shape.hidden, shape.key_width, layers, bias=bias),
        *_linear(output, kind, shape.query_width, shape.hidden, layers, bias=output_bias),
    )


def _gated_mlp(hidden: int, width: int, copies: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    kind = TensorClass.MLP
    return (
        *_linear("gate_proj", kind, hidden, width, copies, bias=bias),
        *_linear("up_proj", kind, hidden, width, copies, bias=bias),
        *_linear("down_proj", kind, width, hidden, copies, bias=bias),
    )


def _block_norms(shape: _Shape, count: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    return (
        *_norm("block_norm", shape.hidden, count * shape.layers, bias=bias),
        *_norm("final_norm", shape.hidden, 1, bias=bias),
    )


def _assemble(
    model_type: str,
    shape: _Shape,
    tensors: tuple[Tensor, ...],
    *,
    norm: NormKind = NormKind.RMS,
    sandwich_norms: bool = False,
    post_norms: bool = False,
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
        tensors=(*_embeddings(shape.vocabulary, shape.hidden, tied=shape.tied), *tensors),
        norm=norm,
        sandwich_norms=sandwich_norms,
        post_norms=post_norms,
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


def _llama(
    config: ConfigReader, model_type: str = "llama", *, tied: bool = False, kv_heads: int | None = None
) -> Architecture:
    """Llama and what copies it: Mistral, Granite, SmolLM 3; biases only where the config says so."""
    shape = _shape(config, tied=tied, kv_heads=kv_heads)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers, bias=config.flag("mlp_bias", default=False)),
        *_block_norms(shape, 2),
    )
    return _assemble(model_type, shape, tensors)


def _mistral(config: ConfigReader) -> Architecture:
    shape = _shape(config, kv_heads=8)
    tensors = (
        *_attention(shape),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble("mistral", shape, tensors)


def _qwen2(config: ConfigReader) -> Architecture:
    shape = _shape(config, kv_heads=32)
    tensors = (
        *_attention(shape, bias=True),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble("qwen2", shape, tensors)


def _head_norms(shape: _Shape) -> tuple[Tensor, ...]:
    return _norm("query_key_norm", shape.head_dim, 2 * shape.layers)


def _qwen3(config: ConfigReader) -> Architecture:
    shape = _shape(config, head_dim=128, kv_heads=32)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *_head_norms(shape),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble("qwen3", shape, tensors, query_key_norm=True)


def _gemma(config: ConfigReader, model_type: str = "gemma", kv_heads: int = 16) -> Architecture:
    """Gemma 1 to 3 (text): float32 norms, four per layer from Gemma 2 on, norms of queries and keys in Gemma 3."""
    shape = _shape(config, tied=True, head_dim=256, kv_heads=kv_heads)
    bias = config.flag("attention_bias", default=False)
    sandwich, head_norms = model_type != "gemma", model_type == "gemma3_text"
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *(_head_norms(shape) if head_norms else ()),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers),
        *_block_norms(shape, 4 if sandwich else 2),
    )
    return _assemble(
        model_type, shape, tensors, norm=NormKind.RMS_FLOAT32, sandwich_norms=sandwich, query_key_norm=head_norms
    )


def _olmo2(config: ConfigReader) -> Architecture:
    shape = _shape(config)
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *_norm("query_key_norm", shape.query_width, shape.layers),
        *_norm("query_key_norm", shape.key_width, shape.layers),
        *_gated_mlp(shape.hidden, shape.intermediate, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble("olmo2", shape, tensors, post_norms=True, query_key_norm=True)


def _phi3(config: ConfigReader) -> Architecture:
    """Phi 3 and 4: query, key and value in one projection, gate and up in another."""
    shape = _shape(config)
    joined = shape.query_width + 2 * shape.key_width
    tensors = (
        *_linear("qkv_proj", TensorClass.ATTENTION, shape.hidden, joined, shape.layers),
        *_linear("o_proj", TensorClass.ATTENTION, shape.query_width, shape.hidden, shape.layers),
        *_linear("gate_up_proj", TensorClass.MLP, shape.hidden, 2 * shape.intermediate, shape.layers),
        *_linear("down_proj", TensorClass.MLP, shape.intermediate, shape.hidden, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble("phi3", shape, tensors, attention_inputs=("qkv_proj",), mlp_inputs=("gate_up_proj",))


def _starcoder2(config: ConfigReader) -> Architecture:
    shape = _shape(config, tied=True, kv_heads=2)
    bias = config.flag("use_bias", default=True)
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *_linear("c_fc", TensorClass.MLP, shape.hidden, shape.intermediate, shape.layers, bias=bias),
        *_linear("c_proj", TensorClass.MLP, shape.intermediate, shape.hidden, shape.layers, bias=bias),
        *_block_norms(shape, 2, bias=True),
    )
    return _assemble(
        "starcoder2", shape, tensors, norm=NormKind.LAYER, gated=False, mlp_inputs=("c_fc",), mlp_output="c_proj"
    )


def _gpt2(config: ConfigReader) -> Architecture:
    hidden, heads = config.whole("n_embd", "hidden_size"), config.whole("n_head", "num_attention_heads")
    positions = config.whole("n_positions", "max_position_embeddings", default=1024)
    shape = _Shape(
        hidden=hidden,
        layers=config.whole("n_layer", "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=config.whole("n_inner", default=4 * hidden),
        vocabulary=config.whole("vocab_size"),
        tied=config.flag("tie_word_embeddings", default=True),
        max_positions=positions,
    )
    kind, layers = TensorClass.ATTENTION, shape.layers
    tensors = (
        Tensor("wpe", TensorClass.EMBEDDING, (positions, hidden), 1),
        *_linear("c_attn", kind, hidden, 3 * hidden, layers, bias=True),
        *_linear("c_proj", kind, hidden, hidden, layers, bias=True),
        *_linear("c_fc", TensorClass.MLP, hidden, shape.intermediate, layers, bias=True),
        *_linear("c_proj", TensorClass.MLP, shape.intermediate, hidden, layers, bias=True),
        *_block_norms(shape, 2, bias=True),
    )
    return _assemble(
        "gpt2",
        shape,
        tensors,
        norm=NormKind.LAYER,
        gated=False,
        fused_activation=config.text("activation_function", "gelu_new") != "gelu_new",
        attention_inputs=("c_attn",),
        attention_output="c_proj",
        mlp_inputs=("c_fc",),
        mlp_output="c_proj",
        residual_dropout=config.number("resid_pdrop", 0.1) > 0,
    )


def _gpt_neox(config: ConfigReader) -> Architecture:
    """GPT-NeoX and Pythia; attention and MLP read the residual stream side by side, which changes no tensor that is kept."""
    shape = _shape(config)
    bias = config.flag("attention_bias", default=True)
    tensors = (
        *_linear("query_key_value", TensorClass.ATTENTION, shape.hidden, 3 * shape.hidden, shape.layers, bias=bias),
        *_linear("dense", TensorClass.ATTENTION, shape.hidden, shape.hidden, shape.layers, bias=bias),
        *_linear("dense_h_to_4h", TensorClass.MLP, shape.hidden, shape.intermediate, shape.layers, bias=True),
        *_linear("dense_4h_to_h", TensorClass.MLP, shape.intermediate, shape.hidden, shape.layers, bias=True),
        *_block_norms(shape, 2, bias=True),
    )
    return _assemble(
        "gpt_neox",
        shape,
        tensors,
        norm=NormKind.LAYER,
        gated=False,
        attention_inputs=("query_key_value",),
        attention_output="dense",
        mlp_inputs=("dense_h_to_4h",),
        mlp_output="dense_4h_to_h",
    )


def _expert_tensors(hidden: int, width: int, experts: int, layers: int) -> tuple[Tensor, ...]:
    """Experts are two three-dimensional parameters since transformers 5: no linear modules, so neither adapted nor quantised."""
    return (
        Tensor("gate", TensorClass.ROUTER, (experts, hidden), layers),
        Tensor("experts", TensorClass.EXPERTS, (experts, 2 * width, hidden), layers),
        Tensor("experts", TensorClass.EXPERTS, (experts, hidden, width), layers),
    )


def _mixtral(config: ConfigReader) -> Architecture:
    shape = _shape(config, kv_heads=8)
    experts = config.whole("num_local_experts", "num_experts", default=8)
    tensors = (
        *_attention(shape),
        *_expert_tensors(shape.hidden, shape.intermediate, experts, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble(
        "mixtral",
        shape,
        tensors,
        experts=experts,
        experts_per_token=config.whole("num_experts_per_tok", default=2),
    )


def _qwen3_moe(config: ConfigReader) -> Architecture:
    dense = _shape(config, kv_heads=4)
    if config.whole("decoder_sparse_step", default=1) != 1 or config.config.get("mlp_only_layers"):
        raise ConfigError(
            "decoder_sparse_step other than 1 and mlp_only_layers (some layers without experts) are not known"
        )
    width = config.whole("moe_intermediate_size", default=768)
    experts = config.whole("num_experts", "num_local_experts", default=128)
    shape = _Shape(**{**dense.__dict__, "intermediate": width})
    bias = config.flag("attention_bias", default=False)
    tensors = (
        *_attention(shape, bias=bias, output_bias=bias),
        *_head_norms(shape),
        *_expert_tensors(shape.hidden, width, experts, shape.layers),
        *_block_norms(shape, 2),
    )
    return _assemble(
        "qwen3_moe",
        shape,
        tensors,
        query_key_norm=True,
        experts=experts,
        experts_per_token=config.whole("num_experts_per_tok", default=8),
    )


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "llama": _llama,
        "mistral": _mistral,
        "granite": lambda config: _llama(config, "granite"),
        "smollm3": lambda config: _llama(config, "smollm3", tied=True, kv_heads=4),
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "qwen3_moe": _qwen3_moe,
        "gemma": _gemma,
        "gemma2": lambda config: _gemma(config, "gemma2", kv_heads=4),
        "gemma3_text": lambda config: _gemma(config, "gemma3_text", kv_heads=4),
        "olmo2": _olmo2,
        "phi3": _phi3,
        "starcoder2": _starcoder2,
        "gpt2": _gpt2,
        "gpt_neox": _gpt_neox,
        "mixtral": _mixtral,
    }
)
"""Every `model_type` that the estimator knows."""
