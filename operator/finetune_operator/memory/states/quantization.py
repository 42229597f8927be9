"""Bytes of the weights that are not trained: quantised linear layers, and everything beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Tensor, TensorClass
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.states.trainable import outer_tensors
from finetune_operator.memory.workload import Workload

NF4_BITS: Final = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits per weight of NF4 with double quantisation: 4, an 8-bit scale per 64 weights, a float32 per 256 scales (QLoRA, arXiv 2305.14314)."""

GPTQ_GROUP: Final = 128


class Storage(NamedTuple):
    """How one weight of a linear layer is stored."""

    bits: float
    row_bytes: int = 0
    """Beside each output."""
    column_bytes: int = 0
    """Beside each input."""


STORAGE: Final[Mapping[Quantization, Storage]] = MappingProxyType(
    {
        Quantization.NF4: Storage(4 + 32 / 64),
        Quantization.NF4_DOUBLE: Storage(NF4_BITS),
        # Packed int32, a float16 scale and a 4-bit zero per group, and GPTQ's group index of every input (gptqmodel's and auto_gptq's QuantLinear).
        Quantization.INT4_GROUPED: Storage(4 + (16 + 4) / GPTQ_GROUP, column_bytes=4),
        Quantization.INT8_GROUPED: Storage(8 + (16 + 8) / GPTQ_GROUP, column_bytes=4),
        # bitsandbytes 0.50, nn.Int8Params: one byte per weight (CB) and a float32 per output (SCB).
        Quantization.INT8: Storage(8, row_bytes=4),
    }
)
"""Bits per weight of linear layers. bitsandbytes (0.50, with transformers 5.23) replaces nn.Linear only: experts, which are
three-dimensional parameters since transformers 5, embeddings, norms and the head stay as they are."""


def quantised_bytes(tensors: Iterable[Tensor], quantization: Quantization) -> int:
    """Return the bytes of linear weights as they are stored, their scales included."""
    storage = STORAGE[quantization]
    return sum(
        tensor.copies
        * (
            round(tensor.elements * storage.bits / 8)
            + storage.row_bytes * tensor.out_features
            + storage.column_bytes * tensor.in_features
        )
        for tensor in tensors
    )


def frozen_element_bytes(workload: Workload) -> int:
    """Return the bytes of a frozen element that is not quantised.

    Normally `numerics.base`; float32 after PEFT's prepare_model_for_kbit_training, which widens all but the quantised weights.
    """
    return 4 if workload.upcasts_rest and workload.quantization is not Quantization.NONE else workload.numerics.base


NF4_CODES: Final = 4
"""Bits of a weight's own code; what STORAGE has above it are scales."""


def scale_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of NF4's scales in the layers: attributes of the parameter (bitsandbytes, Params4bit.quant_state), not parameters.

    FSDP spreads the codes alone, so that every process holds all scales: fms-acceleration's Llama-2-70B over two GPUs, 17.94 GiB allocated
    between steps, has 0.52 GiB more than half of everything, and half of its scales is 0.51 GiB.
    """
    if workload.quantization not in (Quantization.NF4, Quantization.NF4_DOUBLE):
        return 0
    elements = sum(block.copies * block.quantisable_parameters for block in architecture.blocks)
    return round(elements * (STORAGE[workload.quantization].bits - NF4_CODES) / 8)


@derived()
def base_weight_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of the whole model when nothing of it is trained: `base` bytes per weight, linear layers as they are quantised."""
    each = frozen_element_bytes(workload)
    head = sum(tensor.total for tensor in architecture.outer) - sum(
        tensor.total for tensor in outer_tensors(architecture, workload)
    )
    if workload.quantization is Quantization.NONE:
        return (architecture.parameters - head) * each
    quantised_head = _quantised_head(architecture, workload)
    outside = {id(tensor) for tensor in outer_tensors(architecture, workload)}
    kept = {id(tensor) for tensor in architecture.outer if tensor.task_head or id(tensor) not in outside}
    quantised = [tensor for tensor in architecture.tensors if tensor.quantisable and id(tensor) not in kept]
    quantised += quantised_head
    rest = architecture.parameters - head - sum(tensor.total for tensor in quantised)
    return quantised_bytes(quantised, workload.quantization) + rest * each


def _quantised_head(architecture: Architecture, workload: Workload) -> tuple[Tensor, ...]:
    """The head's weight, where the program quantises it as well; never one that is the embedding too."""
    if not workload.software.quantizes_head:
        return ()
    outer = outer_tensors(architecture, workload)
    return tuple(tensor for tensor in outer if tensor.kind is TensorClass.HEAD and len(tensor.shape) > 1)


def frozen_layer_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of the largest layer when nothing of it is trained."""
    each = frozen_element_bytes(workload)
    if workload.quantization is Quantization.NONE:
        return architecture.layer_parameters * each
    return max(
        quantised_bytes((t for t in block.tensors if t.quantisable), workload.quantization)
        + (block.parameters - block.quantisable_parameters) * each
        for block in architecture.blocks
    )


def dequantised_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of one linear weight widened to the compute type: kernels do it before every product, forward and backward.

    bitsandbytes 0.50: MatMul4Bit and MatMul8bitLt (autograd/_functions.py) hold one widened weight at a time. GPTQ's triton kernels
    (the ones that can train) widen inside the kernel's tiles.
    """
    if workload.quantization in (Quantization.NF4, Quantization.NF4_DOUBLE, Quantization.INT8):
        return architecture.largest_linear * workload.numerics.compute
    return 0
