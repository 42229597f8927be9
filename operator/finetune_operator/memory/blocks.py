"""What a transformer is made of, as far as memory and time depend on it: tensors, attention, feed-forward part, and the block that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod


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
    """One kind of parameter tensor and how often its block (or the model, outside the blocks) has it."""

    name: str
    """The module's own name, as tuning.lora.targets and PEFT see it, such as q_proj."""
    kind: TensorClass
    shape: tuple[int, ...]
    copies: int = 1
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
class Attention:
    """The attention part of a block."""

    heads: int
    kv_heads: int
    head_dim: int
    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """Linear modules that read the block's normalised input."""
    output: str = "o_proj"
    query_key_norm: bool = False
    window: int = 0
    """Sliding window in tokens; 0: every earlier token."""

    @property
    def query_width(self) -> int:
        """Output width of the query projection."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Output width of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a block: one MLP, or experts of which each token visits a few."""

    width: int
    """Inner width of the MLP; with experts that of one expert."""
    gated: bool = True
    fused_activation: bool = True
    """The activation function is one kernel; GPT-2's gelu_new is written out and keeps about three more tensors."""
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0
    """Inner width of the expert that every token visits beside the routed ones; 0: there is none."""


@dataclass(frozen=True)
class Block:
    """One kind of layer and how many of them the model has."""

    copies: int
    attention: Attention
    feed_forward: FeedForward
    tensors: tuple[Tensor, ...]
    """Of one copy of the block."""
    norm: NormKind = NormKind.RMS
    sandwich_norms: bool = False
    """A second pair of norms behind attention and MLP (Gemma 2 and 3)."""
    residual_dropout: bool = False

    @cached_property
    def parameters(self) -> int:
        """Parameters of one copy."""
        return sum(tensor.total for tensor in self.tensors)

    @cached_property
    def linear_parameters(self) -> int:
        """Weights of the linear modules of one copy."""
        return sum(tensor.total for tensor in self.tensors if tensor.linear)
