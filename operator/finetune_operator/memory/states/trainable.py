"""Which tensors are trained: optimizers keep different states for matrices, vectors, embeddings and very small tensors, so a sum is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from finetune_operator.memory.architecture import EMBEDDING_NAME, Architecture, Head
from finetune_operator.memory.blocks import Block, Tensor, TensorClass
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import Goal, Tuning
from finetune_operator.memory.workload import Workload


class Trained(NamedTuple):
    """Trained tensors of one shape; a vector has one row."""

    rows: int
    columns: int
    copies: int
    outer: bool = False
    """Outside the layers: FSDP's root unit."""
    embedding: bool = False
    """The weight of an embedding: bitsandbytes keeps 32-bit states for it."""

    @property
    def elements(self) -> int:
        """Of one copy."""
        return self.rows * self.columns

    @property
    def total(self) -> int:
        """Elements of all copies."""
        return self.rows * self.columns * self.copies


def trained_tensors(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    """Return every trained tensor of the model.

    - full: all of them; freeze: the last layers, the last norm and the head, or named linear weights of the last layers;
      spectrum: a share of every kind of linear weight.
    - lora: rank × inputs and outputs × rank per adapted weight (arXiv 2106.09685, §4.1); dora: a magnitude per output beside them
      (arXiv 2402.09353, §4.1); rsLoRA only scales differently.
    - ia3: one factor per output of an adapted attention weight, per input of an adapted MLP weight (arXiv 2205.05638, §3.3).
    - adapter: two matrices and two biases of width `rank`, twice per layer; prompt: rank × hidden; prefix: rank keys and values per layer.
    - other: `trained_parameters` elements in one tensor.

    With `trained_embeddings` PEFT trains copies of embedding and head, each its own even where the model ties them (peft 0.21,
    ModulesToSaveWrapper); the original stays, frozen.
    """
    found = _BY_TUNING[workload.tuning](architecture, workload)
    if workload.trained_embeddings and not workload.trains_base:
        rows, columns = architecture.vocabulary, architecture.hidden
        found += (Trained(rows, columns, 1, outer=True, embedding=True), Trained(rows, columns, 1, outer=True))
    if has_score_head(architecture, workload):
        found += (Trained(1, architecture.hidden, 1, outer=True),)
    return found


def has_score_head(architecture: Architecture, workload: Workload) -> bool:
    """Whether a small trained head takes the place of a language model's, because the goal needs AutoModelForSequenceClassification."""
    return workload.goal in (Goal.REWARD, Goal.CLASSIFICATION) and architecture.head in (Head.CAUSAL_LM, Head.MASKED_LM)


def outer_tensors(architecture: Architecture, workload: Workload) -> tuple[Tensor, ...]:
    """Return the model's own tensors outside its layers, without the head where the goal replaces it."""
    if not has_score_head(architecture, workload):
        return architecture.outer
    return tuple(tensor for tensor in architecture.outer if tensor.kind is not TensorClass.HEAD)


def _whole(tensor: Tensor, copies: int, *, outer: bool = False) -> Trained:
    columns = tensor.shape[-1]
    is_embedding = tensor.kind is TensorClass.EMBEDDING
    return Trained(tensor.elements // columns, columns, tensor.copies * copies, outer, is_embedding)


def _full(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    inner = (_whole(tensor, block.copies) for block in architecture.blocks for tensor in block.tensors)
    return (*(_whole(tensor, 1, outer=True) for tensor in outer_tensors(architecture, workload)), *inner)


def _freeze(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    names = workload.trained_modules
    found = [] if names else _frozen_models_head(architecture, workload)
    missing = workload.trained_layers
    for block in reversed(architecture.blocks):
        copies = min(missing, block.copies)
        missing -= copies
        chosen = [tensor for tensor in block.tensors if not names or (tensor.linear and tensor.name in names)]
        found += [_whole(tensor, copies) for tensor in chosen if copies]
    return tuple(found)


def _frozen_models_head(architecture: Architecture, workload: Workload) -> list[Trained]:
    return [
        _whole(tensor, 1, outer=True)
        for tensor in outer_tensors(architecture, workload)
        if tensor.kind in (TensorClass.NORM, TensorClass.HEAD)
        or (
            tensor.name == EMBEDDING_NAME
            and architecture.tied_embeddings
            and not workload.freezes_tied_head
            and not has_score_head(architecture, workload)
        )
    ]


def _spectrum(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    """Modules are ranked within their own kind, so that the share holds for each."""

    def kept(block: Block) -> int:
        return max(1, round(workload.trained_fraction * block.copies))

    return tuple(
        _whole(tensor, kept(block)) for block in architecture.blocks for tensor in block.tensors if tensor.linear
    )


def _lora(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    rank = workload.rank
    adapted = [tensor for tensor in architecture.adapted(workload.targets) if not tensor.task_head]
    first = (Trained(rank * tensor.adapters, tensor.in_features, tensor.copies) for tensor in adapted)
    second = (Trained(tensor.out_features, rank * tensor.adapters, tensor.copies) for tensor in adapted)
    task_head = (_whole(tensor, 1, outer=True) for tensor in architecture.outer if tensor.task_head)
    return (*first, *second, *task_head)


def _dora(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    adapted = architecture.adapted(workload.targets)
    magnitudes = (Trained(1, tensor.out_features, tensor.copies) for tensor in adapted)
    return (*_lora(architecture, workload), *magnitudes)


def _ia3(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    return tuple(
        Trained(1, tensor.in_features if tensor.kind is TensorClass.MLP else tensor.out_features, tensor.copies)
        for tensor in architecture.adapted(workload.targets)
    )


def _bottleneck(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    hidden, rank, copies = architecture.hidden, workload.rank, 2 * architecture.layers
    return (
        Trained(rank, hidden, copies),
        Trained(1, rank, copies),
        Trained(hidden, rank, copies),
        Trained(1, hidden, copies),
    )


def _prompt(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    return (Trained(workload.rank, architecture.hidden, 1, outer=True, embedding=True),)


def _prefix(architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    """PEFT keeps all layers' prefixes in one embedding (PrefixEncoder without projection)."""
    width = sum(2 * block.copies * block.attention.key_width for block in architecture.blocks)
    return (Trained(workload.rank, width, 1, outer=True, embedding=True),)


def _other(_architecture: Architecture, workload: Workload) -> tuple[Trained, ...]:
    return (Trained(1, workload.trained_parameters, 1),)


_BY_TUNING: Final[Mapping[Tuning, Callable[[Architecture, Workload], tuple[Trained, ...]]]] = MappingProxyType(
    {
        Tuning.FULL: _full,
        Tuning.FREEZE: _freeze,
        Tuning.SPECTRUM: _spectrum,
        Tuning.LORA: _lora,
        Tuning.DORA: _dora,
        Tuning.IA3: _ia3,
        Tuning.ADAPTER: _bottleneck,
        Tuning.PROMPT: _prompt,
        Tuning.PREFIX: _prefix,
        Tuning.OTHER: _other,
    }
)


def total(tensors: Iterable[Trained]) -> int:
    """Return the elements of all of them."""
    return sum(tensor.rows * tensor.columns * tensor.copies for tensor in tensors)


@derived()
def trainable_parameters(architecture: Architecture, workload: Workload) -> int:
    """Return how many parameters are trained. Llama-3-8B, LoRA with rank 16 on all linear layers: 41,943,040."""
    return total(trained_tensors(architecture, workload))
