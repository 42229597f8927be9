"""What the estimator knows of a model: every tensor with its shape, and the widths that activations depend on.

Everything is computed from `config.json`, so that the operator can size a job without torch, transformers or the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod

from pydantic import JsonValue

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason


class TensorClass(StrEnum):
    """What a tensor belongs to."""

    EMBEDDING = "embedding"
    HEAD = "head"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    ROUTER = "router"
    NORM = "norm"


class NormKind(StrEnum):
    """How a normalisation is computed; they keep different tensors for the backward pass."""

    RMS = "rms"
    """Llama's: the statistics in float32, the weight multiplied in the compute type."""
    RMS_FLOAT32 = "rms-float32"
    """Gemma's: everything in float32, weight included, cast at the end."""
    LAYER = "layer"
    """torch.nn.LayerNorm: one fused kernel."""


@dataclass(frozen=True)
class Tensor:
    """One kind of parameter tensor and how often the model has it."""

    name: str
    """The module's own name, as tuning.lora.targets and PEFT see it, such as q_proj."""
    kind: TensorClass
    shape: tuple[int, ...]
    copies: int
    linear: bool = False
    """The weight of a linear module: it can carry an adapter and can be quantised."""
    in_features: int = 0
    out_features: int = 0

    @property
    def elements(self) -> int:
        """Elements of one copy."""
        return prod(self.shape)

    @property
    def total(self) -> int:
        """Elements of all copies."""
        return self.elements * self.copies


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer, as far as memory and time depend on it."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the MLP; with experts that of one expert."""
    vocabulary: int
    tied_embeddings: bool
    tensors: tuple[Tensor, ...]
    norm: NormKind = NormKind.RMS
    sandwich_norms: bool = False
    """A second pair of norms behind attention and MLP (Gemma 2 and 3)."""
    query_key_norm: bool = False
    gated: bool = True
    fused_activation: bool = True
    """The activation function is one kernel; GPT-2's gelu_new is written out and keeps about three more tensors."""
    attention_inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    attention_output: str = "o_proj"
    mlp_inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    mlp_output: str = "down_proj"
    residual_dropout: bool = False
    experts: int = 0
    experts_per_token: int = 0
    max_positions: int = 0
    """Longest sequence that the model was made for; 0 when the config does not say."""

    @property
    def query_width(self) -> int:
        """Output width of the query projection."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Output width of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @cached_property
    def parameters(self) -> int:
        """All parameters; a tied output head counts once."""
        return sum(tensor.total for tensor in self.tensors)

    @cached_property
    def linear_parameters(self) -> int:
        """Weights of linear modules without the output head: what QLoRA quantises and all-linear adapts."""
        return sum(tensor.total for tensor in self.tensors if tensor.linear)

    @cached_property
    def outer_parameters(self) -> int:
        """Parameters outside the layers (embeddings, head, last norm): FSDP2's root unit."""
        return self.parameters - self.layer_parameters * self.layers

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of one layer (the mean, where layers differ)."""
        inner = sum(tensor.total for tensor in self.tensors if tensor.copies >= self.layers and not self._outer(tensor))
        return inner // self.layers

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that multiply one token: experts count only as far as they are routed to, embeddings not at all."""
        total = 0
        for tensor in self.tensors:
            if tensor.kind is TensorClass.EMBEDDING and not (self.tied_embeddings and tensor.name == EMBEDDING_NAME):
                continue
            share = self.experts_per_token / self.experts if tensor.kind is TensorClass.EXPERTS else 1.0
            total += round(tensor.total * share)
        return total

    @cached_property
    def largest_tensor(self) -> int:
        """Elements of the largest single tensor."""
        return max(tensor.elements for tensor in self.tensors)

    @cached_property
    def largest_linear(self) -> int:
        """Elements of the largest linear weight."""
        return max((tensor.elements for tensor in self.tensors if tensor.linear), default=0)

    def adapted(self, targets: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Return the linear weights that get an adapter; `all-linear` means every one but the output head."""
        if targets == (ALL_LINEAR,):
            return tuple(tensor for tensor in self.tensors if tensor.linear)
        return tuple(tensor for tensor in self.tensors if tensor.linear and tensor.name in targets)

    def linear_names(self) -> tuple[str, ...]:
        """Return the names that tuning.lora.targets may use."""
        return tuple(dict.fromkeys(tensor.name for tensor in self.tensors if tensor.linear))

    @staticmethod
    def _outer(tensor: Tensor) -> bool:
        return tensor.kind in (TensorClass.EMBEDDING, TensorClass.HEAD) or tensor.name in OUTER_NORM_NAMES


ALL_LINEAR = "all-linear"
EMBEDDING_NAME = "embed_tokens"
OUTER_NORM_NAMES = frozenset({"final_norm"})


def lora_parameters(architecture: Architecture, rank: int, targets: tuple[str, ...]) -> int:
    """Return the trainable parameters of LoRA: the sum over adapted weights of rank × (inputs + outputs).

    Source: the LoRA paper (arXiv 2106.09685), §4.1. Llama-3-8B with rank 16 on all linear layers: 41,943,040.
    """
    adapted = architecture.adapted(targets)
    return sum(rank * (tensor.in_features + tensor.out_features) * tensor.copies for tensor in adapted)


def architecture_of(config: Mapping[str, JsonValue]) -> Architecture | PlanError:
    """Return the architecture that `config` (the content of config.json) describes, or why it cannot be told.

    Exact: the parameter count equals that of `AutoModelForCausalLM.from_config` on the meta device (tests/memory/test_architecture.py).
    """
    # families.py builds Architectures and so imports this module.
    from finetune_operator.memory.config_reader import ConfigError, ConfigReader
    from finetune_operator.memory.families import FAMILIES

    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        return PlanError(
            reason=Reason.UNKNOWN_ARCHITECTURE,
            message=(
                f"the model's config.json has model_type {model_type!r}, which the memory estimator does not know; "
                f"use a model of one of these types: {', '.join(sorted(FAMILIES))}"
            ),
        )
    try:
        return family(ConfigReader(config))
    except ConfigError as error:
        return PlanError(
            reason=Reason.UNKNOWN_ARCHITECTURE,
            message=f"the model's config.json (model_type {model_type}) cannot be used: {error}; mend the file or use another model",
        )
