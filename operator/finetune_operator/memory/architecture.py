"""What the estimator knows of a model: every tensor with its shape, and the widths that activations depend on.

Everything is computed from `config.json`, so that the operator can size a job without torch, transformers or the weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydantic import JsonValue

from finetune_operator.api.architecture_trace import ArchitectureTrace
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.blocks import Block, Tensor, TensorClass


class Head(StrEnum):
    """What stands behind the last layer: which of transformers' AutoModel classes makes the model."""

    CAUSAL_LM = "causal-lm"
    MASKED_LM = "masked-lm"
    SEQUENCE_CLASSIFICATION = "sequence-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - tokens of a text
    NONE = "none"
    """AutoModel: hidden states only, as sentence-transformers trains them."""


@dataclass(frozen=True)
class Architecture:
    """A transformer, as far as memory and time depend on it."""

    model_type: str
    hidden: int
    vocabulary: int
    tied_embeddings: bool
    blocks: tuple[Block, ...]
    outer: tuple[Tensor, ...]
    """Tensors outside the blocks: first the embedding of words, then other embeddings, the last norm, the head."""
    max_positions: int = 0
    """Longest sequence that the model was made for; 0 when the config does not say."""
    head: Head = Head.CAUSAL_LM
    labels: int = 0
    """Classes of a classification head."""
    final_norm: bool = True
    """A norm stands behind the last layer; post-norm encoders have none."""
    embedding_norm: bool = False
    """The sum of the embeddings is normalised (BERT and its kind, Bloom, ModernBERT)."""
    embedding_dropout: float = 0.0
    """Dropout of the embeddings, as config.json sets it."""
    embedding_scaled: bool = False
    """Embeddings are multiplied by a number (Gemma: √hidden, Granite)."""
    logits_scaled: bool = False
    """Logits are multiplied or divided by a number, which makes a second tensor of their size (Cohere, Granite)."""
    logits_capped: bool = False
    """Logits are capped by a tanh (Gemma 2): division, tanh and product are tensors of their size."""

    @cached_property
    def derived(self) -> dict[Hashable, Any]:
        """Results of pure functions of this architecture, by what else they depend on: the planner asks the same thousands of times."""
        return {}

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the model, those of blocks with all their copies."""
        inner = (
            replace(tensor, copies=tensor.copies * block.copies) for block in self.blocks for tensor in block.tensors
        )
        return (*self.outer, *inner)

    @cached_property
    def layers(self) -> int:
        """Number of layers, of all kinds of blocks together."""
        return sum(block.copies for block in self.blocks)

    @property
    def traced(self) -> bool:
        """Whether it was measured, because no family describes it."""
        return self.main_block.traced is not None

    @cached_property
    def main_block(self) -> Block:
        """The block with the most copies; its widths stand for the model where one figure is enough."""
        return max(self.blocks, key=lambda block: block.copies)

    @cached_property
    def parameters(self) -> int:
        """All parameters; a tied output head counts once."""
        return sum(tensor.total for tensor in self.tensors)

    @cached_property
    def linear_parameters(self) -> int:
        """Weights of linear modules without the output head: what all-linear adapts."""
        return sum(tensor.total for tensor in self.tensors if tensor.linear)

    @cached_property
    def quantisable_parameters(self) -> int:
        """Weights that bitsandbytes quantises: those of linear modules, but not of modules derived from them (Falcon's)."""
        return sum(tensor.total for tensor in self.tensors if tensor.quantisable)

    @cached_property
    def outer_parameters(self) -> int:
        """Parameters outside the layers (embeddings, head, last norm): FSDP2's root unit."""
        return sum(tensor.total for tensor in self.outer)

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of the largest layer: FSDP2 gathers one layer at a time."""
        return max(block.parameters for block in self.blocks)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that multiply one token: experts count only as far as they are routed to, embeddings not at all."""
        total = sum(
            tensor.total
            for tensor in self.outer
            if tensor.kind is not TensorClass.EMBEDDING or (self.tied_embeddings and tensor is self.outer[0])
        )
        for block in self.blocks:
            part = block.feed_forward
            for tensor in block.tensors:
                share = part.experts_per_token / part.experts if tensor.kind is TensorClass.EXPERTS else 1.0
                total += round(tensor.total * share) * block.copies
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
        """Return the weights that get an adapter; `all-linear` means every linear one but the output head.

        Where PEFT adapts experts' parameters by the names that linear modules had, linear modules of those names get none.
        """
        everything, taken = targets == (ALL_LINEAR,), self.parameter_targets
        return tuple(
            tensor
            for tensor in self.tensors
            if (tensor.linear and tensor.name not in taken and (everything or tensor.name in targets))
            or (tensor.targets and (everything or set(tensor.targets) <= set(targets)))
        )

    @cached_property
    def parameter_targets(self) -> frozenset[str]:
        """Names that stand for parameters which are no linear modules: of stacked experts and their routers."""
        return frozenset(name for tensor in self.tensors for name in tensor.targets)

    def linear_names(self) -> tuple[str, ...]:
        """Return the names of the model's linear modules."""
        return tuple(dict.fromkeys(tensor.name for tensor in self.tensors if tensor.linear))

    def target_names(self) -> tuple[str, ...]:
        """Return the names that tuning.lora.targets may use."""
        others = (name for tensor in self.tensors for name in tensor.targets)
        return tuple(dict.fromkeys((*self.linear_names(), *others)))


ALL_LINEAR = "all-linear"
EMBEDDING_NAME = "embed_tokens"


def lora_parameters(architecture: Architecture, rank: int, targets: tuple[str, ...]) -> int:
    """Return the trainable parameters of LoRA: the sum over adapted weights of rank × (inputs + outputs).

    Source: the LoRA paper (arXiv 2106.09685), §4.1. Llama-3-8B with rank 16 on all linear layers: 41,943,040.
    """
    adapted = architecture.adapted(targets)
    return sum(
        rank * tensor.adapters * (tensor.in_features + tensor.out_features) * tensor.copies for tensor in adapted
    )


def architecture_of(
    config: Mapping[str, JsonValue],
    trace: ArchitectureTrace | None = None,
    *,
    head: Head | None = None,
    labels: int = 2,
    transformers_major: int = 5,
) -> Architecture | PlanError:
    """Return the architecture that `config` (the content of config.json) describes, or why it cannot be told.

    Exact: parameter counts equal those of transformers' AutoModel classes on the meta device (tests/memory/test_architecture_counts.py).
    Of a multimodal model (a config with a `text_config`: Gemma 3, Llama 4, Mistral 3) it is the text part only, without the vision tower.

    Args:
        config: the content of config.json.
        trace: what the oracle measured (memory/traced.py); used where no family describes the config.
        head: what stands behind the last layer; None: the language-modelling head that the type was trained with.
        labels: classes of a classification head.
        transformers_major: which transformers' module layout is meant; before 5, experts and Falcon's layers count as plain linear modules.
    """
    # They build Architectures and so import this module.
    from finetune_operator.memory.traced import traced_architecture

    known = _known_architecture(config, head, labels, transformers_major)
    if isinstance(known, PlanError) and trace is not None and head in (None, Head.CAUSAL_LM):
        return traced_architecture(config, trace)
    return known


def _known_architecture(
    config: Mapping[str, JsonValue], head: Head | None, labels: int, transformers_major: int
) -> Architecture | PlanError:
    # Families build Architectures and so import this module.
    from finetune_operator.memory.config_reader import ConfigError, ConfigReader
    from finetune_operator.memory.families import ENCODERS, FAMILIES

    text = text_part(config)
    # The oracle builds whole models and follows decoders; of a multimodal one neither plan nor trace would be right.
    traceable = text is config and head in (None, Head.CAUSAL_LM)
    model_type = text.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        return PlanError(
            reason=Reason.UNKNOWN_ARCHITECTURE,
            message=(
                f"the model's config.json has model_type {model_type!r}, which the memory estimator does not know; "
                f"use a model of one of these types: {', '.join(sorted(FAMILIES))}"
            ),
            needs_trace=traceable,
        )
    natural = Head.MASKED_LM if model_type in ENCODERS else Head.CAUSAL_LM
    try:
        return family(ConfigReader(text, head or natural, labels, transformers_major))
    except ConfigError as error:
        return PlanError(
            reason=Reason.UNKNOWN_ARCHITECTURE,
            message=f"the model's config.json (model_type {model_type}) cannot be used: {error}; mend the file or use another model",
            needs_trace=traceable,
        )


def text_part(config: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Return the part of a multimodal model's config that describes its language model; of any other the config itself."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    outside = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    return {**outside, **text}
