"""What FSDP 2 pads: it spreads every tensor by its first dimension, and experts are one tensor whose first dimension is their number.

torch (2.13, _fsdp_param.py, _init_sharded_param) gives every process as many rows as the first one has, empty ones included, gathers tensors with
that padding, and reduces gradients with it. Gradients and moments are not padded, but the first process has the most of them. With 8 experts over
16 processes the first eight hold one expert each: an eighth of the experts and not a sixteenth, and a gathered layer is twice as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block, Tensor
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.states.quantization import frozen_element_bytes
from finetune_operator.memory.states.trainable import trained_tensors
from finetune_operator.memory.workload import Workload


class Padding(NamedTuple):
    """What comes to the whole model, as if all processes held what the first one does."""

    trained: int = 0
    """Elements of trained tensors."""
    layer_trained: int = 0
    """The same of the largest layer."""
    frozen: int = 0
    """Bytes of frozen tensors; quantised ones are stored flat, and need none."""
    layer_frozen: int = 0


NO_PADDING = Padding()


def padding_of(architecture: Architecture, workload: Workload) -> Padding:
    """Return what FSDP 2 pads; nothing for FSDP 1 and ZeRO, which spread flat buffers."""
    if workload.strategy is not Strategy.FSDP or workload.flat_parameters or workload.shards == 1:
        return NO_PADDING
    return _fsdp2(architecture, workload)


@derived(but=("shards",))
def _fsdp2(architecture: Architecture, workload: Workload) -> Padding:
    shards, each = workload.shards, frozen_element_bytes(workload)
    largest = max(architecture.blocks, key=lambda block: block.parameters)
    if workload.trains_base:
        padded = _padded(architecture.tensors, shards)
        trained = sum(tensor.total for tensor in trained_tensors(architecture, workload))
        # Freeze and spectrum: trained tensors are taken to be as uneven as the others.
        part = min(1.0, trained / architecture.parameters)
        layer = _padded(largest.tensors, shards)
        return Padding(
            trained=round(part * padded), layer_trained=layer, frozen=round((1 - part) * padded) * each, layer_frozen=0
        )
    whole = sum(block.copies * _padded(_stored_by_row(block, workload), shards) for block in architecture.blocks)
    return Padding(
        trained=sum(
            _more(t.rows, shards) * t.columns * t.copies for t in trained_tensors(architecture, workload) if t.rows > 1
        ),
        frozen=(whole + _padded(architecture.outer, shards)) * each,
        layer_frozen=_padded(_stored_by_row(largest, workload), shards) * each,
    )


def _stored_by_row(block: Block, workload: Workload) -> Iterable[Tensor]:
    is_quantised = workload.quantization is not Quantization.NONE
    return (tensor for tensor in block.tensors if not (is_quantised and tensor.quantisable))


def _padded(tensors: Iterable[Tensor], shards: int) -> int:
    """Elements that come to these tensors."""
    return sum(_more(t.shape[0], shards) * (t.total // t.shape[0]) for t in tensors if t.shape)


def _more(rows: int, shards: int) -> int:
    return -rows % shards
