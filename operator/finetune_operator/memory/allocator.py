"""What the process holds beyond its live tensors: torch's caching allocator, CUDA context, NCCL; and how far a prediction may be off.

Three figures people read, each at its peak: `allocated` (torch.cuda.max_memory_allocated: live tensors), `reserved`
(max_memory_reserved: what the caching allocator took from the driver) and `device` (nvidia-smi: context and NCCL as well).
"""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.workload import Quantization, Workload

FRAGMENTATION: Final = 0.06
"""reserved / allocated - 1 at the peak: 1.06 in PEFT's MetaMathQA runs on L40S, 1.11 in full fine-tuning there."""

UPPER_MARGIN: Final = 0.10
"""upper = expected + this share of what the allocator holds: what the closed form misses (docs/explanation/memory.md has the errors)."""

QUANTIZED_MARGIN: Final = 0.03
"""Added to it where weights are widened on the fly."""

SHARDED_MARGIN: Final = 0.08
"""Added to it for FSDP2 and ZeRO: gathered layers come and go."""


def fragmentation_bytes(allocated: int) -> int:
    """Return what the caching allocator holds beyond `allocated` live bytes."""
    return round(FRAGMENTATION * allocated)


def margin_bytes(workload: Workload, held: int) -> int:
    """Return how many bytes above `held` the peak may lie."""
    share = UPPER_MARGIN
    if workload.quantization is not Quantization.NONE:
        share += QUANTIZED_MARGIN
    if workload.shards > 1:
        share += SHARDED_MARGIN
    return round(share * held)
