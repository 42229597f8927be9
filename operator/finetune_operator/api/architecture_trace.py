"""What the oracle measured of an architecture that the estimator has no table for: tensors and bytes, as numbers that need no torch to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue

from finetune_operator.api.model import ReadModel


class TracedTensor(ReadModel):
    """One kind of parameter tensor."""

    name: str = Field(
        description="The module's own name, such as q_proj; of a parameter without a module of its own, the parameter's."
    )
    kind: Literal["embedding", "head", "experts", "matrix", "vector"] = Field(
        description="experts: stacked matrices, one per expert."
    )
    shape: tuple[int, ...]
    copies: int = 1
    inputs: int = Field(0, description="Input width of a linear module, which can carry an adapter; else 0.")
    outputs: int = Field(0, description="Its output width.")
    subclassed: bool = Field(False, description="Of a subclass of torch.nn.Linear: bitsandbytes leaves it as it is.")


class TracedLayers(ReadModel):
    """Layers with equal tensors, wherever they stand."""

    copies: int
    tensors: tuple[TracedTensor, ...] = Field(description="Of one layer.")


class TracedBytes(ReadModel):
    """Bytes that grow with the tokens of a sequence."""

    per_token: float
    per_pair: float = Field(
        0, description="Per pair of tokens of one sequence; 0 where attention is computed by a fused kernel."
    )


class TracedPass(ReadModel):
    """What one layer (the mean, where layers differ) needs in one way of training."""

    method: Literal["full", "lora"] = Field(description="lora: adapters on all linear modules.")
    precision: Literal["bf16", "autocast"] = Field(
        description="bf16: all of it. autocast: trained weights in float32 under bfloat16 autocast, frozen ones in bfloat16."
    )
    kept: TracedBytes = Field(description="From the forward to the backward pass, casts of weights not counted.")
    backward: TracedBytes = Field(
        description="Beyond what all layers keep, at the highest moment of their backward pass: gradients of activations. "
        "Of full training nothing where that moment comes late, when few activations are left."
    )


class ArchitectureTrace(ReadModel):
    """Numbers of one architecture; tensors are counted, bytes are measured."""

    model_type: str
    hidden: int
    vocabulary: int
    tied_embeddings: bool
    layers: tuple[TracedLayers, ...]
    outer: tuple[TracedTensor, ...] = Field(description="Outside the layers, the embedding of words first.")
    passes: tuple[TracedPass, ...]
    rank: int = Field(description="Of the traced adapters.")
    adapter_parameters: int = Field(
        description="Of LoRA with that rank and targets all-linear: PEFT adapts the experts of some types, which are no linear modules."
    )


def why_not_traced(config: Mapping[str, JsonValue], *, trusts_code: bool) -> str | None:
    """Return why a model must not be traced although its class may be known: training would run other code than the trace.

    Args:
        config: The content of config.json.
        trusts_code: model.trustRemoteCode.
    """
    if not trusts_code or not config.get("auto_map"):
        return None
    return (
        "model.trustRemoteCode has the training run the model's own code (auto_map in config.json), and the trace runs no code of a model; "
        "set it to false if transformers itself has this model_type"
    )
