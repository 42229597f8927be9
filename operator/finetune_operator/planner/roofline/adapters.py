"""What adapters add to a forward pass: small products that are bound by memory traffic and by the number of kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import Tuning
from finetune_operator.memory.workload import Workload

INPUT_PASSES: Final = 1
OUTPUT_PASSES: Final = 5
"""The second product writes the output, scaling reads and writes it, the sum with the base's output reads two and writes one (PEFT 0.21)."""
KERNELS: Final = 5
CAST_BYTES: Final = 6
"""PEFT casts the input to the adapter's type (2 read, 4 written) where that is float32."""
DORA_KERNELS: Final = 8


@dataclass(frozen=True)
class AdapterCost:
    """All adapters of the model, forward; flops and bytes per token."""

    flops: float
    traffic: float
    kernels: float


NO_ADAPTERS: Final = AdapterCost(0.0, 0.0, 0.0)


@derived()
def adapter_cost(architecture: Architecture, workload: Workload) -> AdapterCost:
    """Return what the adapters of `workload` add to one forward pass."""
    if not workload.has_adapters:
        return NO_ADAPTERS
    compute, rank = workload.numerics.compute, workload.rank
    casts = workload.numerics.trained == 4 and compute == 2
    flops, traffic, modules = 0.0, 0.0, 0
    for tensor in architecture.adapted(workload.targets):
        inputs, outputs = tensor.in_features, tensor.out_features
        if tensor.targets:
            # Experts: the adapters' product is added to the weights in every pass, and a token pays for nothing of it.
            continue
        flops += 2.0 * rank * (inputs + outputs) * tensor.copies
        width = compute * (INPUT_PASSES * inputs + OUTPUT_PASSES * outputs)
        width += (CAST_BYTES * inputs if casts else 0) + (5 * inputs if workload.dropout > 0 else 0)
        traffic += width * tensor.copies
        modules += tensor.copies
    kernels = KERNELS + (2 if casts else 0) + (1 if workload.dropout > 0 else 0)
    if workload.tuning is Tuning.DORA:
        kernels += DORA_KERNELS
        traffic *= 2
    return AdapterCost(flops, traffic, kernels * modules)
