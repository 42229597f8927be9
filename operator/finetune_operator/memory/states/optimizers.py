"""What an optimizer keeps from step to step, and what it holds for a moment inside a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from finetune_operator.memory.kinds import Numerics, Optimizer
from finetune_operator.memory.states.trainable import Trained, total
from finetune_operator.memory.workload import Workload

QUANTIZED_LEAST: Final = 4096
"""Tensors with fewer elements keep 32-bit moments (bitsandbytes 0.50, Optimizer2State, min_8bit_size)."""
QUANTIZED_BYTES: Final = 2 + 2 * 4 / 256
"""Two one-byte moments, and a float32 scale per 256 elements for each (bitsandbytes 0.50, Optimizer2State.init_state)."""
PAGED_LEAST: Final = 100_000
"""Smaller states are not paged (bitsandbytes 0.50, Optimizer8bit.get_state_buffer)."""
MOMENTS: Final = 2


class OptimizerMemory(NamedTuple):
    """Bytes for the whole model, before sharding."""

    device: int
    """In the GPU's memory."""
    pageable: int
    """In unified memory: torch's allocator does not count it, and the driver moves it to the host when the GPU is full."""
    step: int
    """Temporaries inside the step that grow with the number of trained parameters, and so are shared out with them."""
    step_of_largest: int
    """Temporaries of one tensor at a time."""


def optimizer_memory(tensors: Sequence[Trained], workload: Workload) -> OptimizerMemory:
    """Return what the workload's optimizer holds for `tensors`.

    - adamw: two moments; torch's fused kernel needs nothing more (torch 2.13, _fused_adamw).
    - adamw-foreach: the same, and one moment's bytes more inside the step: the square root of all second moments exists at once
      (torch 2.13, _multi_tensor_adam: exp_avg_sq_sqrt). It was transformers' adamw_torch before 4.46.
    - 8-bit and paged: bitsandbytes, always float32 where not 8-bit; embeddings keep 32 bits (transformers 5.23 overrides them).
    - adafactor: a float32 per row and per column; inside the step float32 copies of one matrix: the squared gradient and its sum with
      epsilon, and in layers, whose matrices follow each other, the update of the matrix before; of a matrix in half precision also
      gradient and weight (transformers 5.23, Adafactor.step).
    - sgd without momentum: nothing. muon: one momentum per element of a layer's matrices, AdamW for the rest (torch 2.13, Muon).
    """
    numerics = workload.numerics
    match workload.optimizer:
        case Optimizer.ADAMW:
            return OptimizerMemory(MOMENTS * numerics.moment * total(tensors), 0, 0, 0)
        case Optimizer.ADAMW_FOREACH:
            moments = numerics.moment * total(tensors)
            return OptimizerMemory(MOMENTS * moments, 0, moments, 0)
        case Optimizer.ADAMW_8BIT | Optimizer.PAGED_ADAMW | Optimizer.PAGED_ADAMW_8BIT:
            return _bitsandbytes(tensors, workload.optimizer)
        case Optimizer.ADAFACTOR:
            return _adafactor(tensors, numerics)
        case Optimizer.SGD:
            return OptimizerMemory(0, 0, 0, 0)
        case Optimizer.MUON:
            return _muon(tensors, numerics)


def _bitsandbytes(tensors: Sequence[Trained], optimizer: Optimizer) -> OptimizerMemory:
    is_8bit = optimizer is not Optimizer.PAGED_ADAMW
    is_paged = optimizer is not Optimizer.ADAMW_8BIT
    device = pageable = 0.0
    for tensor in tensors:
        elements = tensor.rows * tensor.columns
        is_small = elements < QUANTIZED_LEAST or tensor.embedding
        size = tensor.copies * elements * (QUANTIZED_BYTES if is_8bit and not is_small else MOMENTS * 4)
        if is_paged and elements >= PAGED_LEAST:
            pageable += size
        else:
            device += size
    return OptimizerMemory(round(device), round(pageable), 0, 0)


def _adafactor(tensors: Sequence[Trained], numerics: Numerics) -> OptimizerMemory:
    kept = sum(t.copies * (t.rows + t.columns if t.rows > 1 else t.columns) for t in tensors)
    largest = max((t.rows * t.columns for t in tensors), default=0)
    in_layers = max((t.rows * t.columns for t in tensors if not t.outer), default=0)
    widened = 8 if numerics.trained < 4 else 0
    return OptimizerMemory(4 * kept, 0, 0, max((8 + widened) * largest, (12 + widened) * in_layers))


def _muon(tensors: Sequence[Trained], numerics: Numerics) -> OptimizerMemory:
    """Newton-Schulz works on one matrix in bfloat16: the momentum's update, its copy, the product, and two matrices of the short side."""
    matrices = [t for t in tensors if t.rows > 1 and not t.outer]
    own = total(matrices)
    rest = total(tensors) - own
    step = max(
        ((numerics.trained + 2 * 2) * t.rows * t.columns + 2 * 2 * min(t.rows, t.columns) ** 2 for t in matrices),
        default=0,
    )
    return OptimizerMemory(numerics.moment * (own + MOMENTS * rest), 0, 0, step)
