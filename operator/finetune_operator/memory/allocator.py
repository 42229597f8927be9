"""What the process holds beyond its live tensors: torch's caching allocator, CUDA context, NCCL; and how far a prediction may be off.

Three figures people read, each at its peak: `allocated` (torch.cuda.max_memory_allocated: live tensors), `reserved`
(max_memory_reserved: what the caching allocator took from the driver) and `device` (nvidia-smi: context and NCCL as well).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_operator.api.plan import Component
from finetune_operator.memory.workload import Quantization, Workload

LASTING_SHARE: Final = 0.01
"""Holes among tensors that stay: sizes rounded up to segments of 2 and 20 MiB."""

PASSING_SHARE: Final = 0.06
"""Holes among activations, logits and temporaries when every step has the same length. Simulated (bench/allocator_fragmentation.py): 0.03 to
0.17, median 0.06."""

VARIED_SHARE: Final = 0.9
"""The same when lengths differ from step to step and segments cannot grow: a longer step does not fit into the blocks of shorter ones.
Simulated, where the longest step does not come first: 0.66 to 0.96 up to 4,096 tokens, 1.1 to 2 at 8,192."""

VARIED_MARGIN: Final = 0.15
"""Added to upper then: how soon a long step comes is chance."""

UPPER_MARGIN: Final = 0.10
"""upper = expected + this share of what the allocator holds: what the closed form misses (docs/explanation/memory.md has the errors)."""

QUANTIZED_MARGIN: Final = 0.03
"""Added to it where weights are widened on the fly."""

SHARDED_MARGIN: Final = 0.08
"""Added to it for FSDP2 and ZeRO: gathered layers come and go."""


def fragmentation_bytes(workload: Workload, components: Mapping[Component, int]) -> int:
    """Return what the caching allocator holds beyond the live bytes of `components`."""
    kept = components.get(Component.ACTIVATIONS, 0) + components.get(Component.LOGITS, 0)
    # Without activations the temporaries are the optimizer's, which are the same in every step.
    passing = kept + components.get(Component.TEMPORARIES, 0) if kept else 0
    lasting = sum(components.values()) - passing
    return round(LASTING_SHARE * lasting + (VARIED_SHARE if workload.varied_lengths else PASSING_SHARE) * passing)


def margin_bytes(workload: Workload, held: int) -> int:
    """Return how many bytes above `held` the peak may lie."""
    share = UPPER_MARGIN
    if workload.quantization is not Quantization.NONE:
        share += QUANTIZED_MARGIN
    if workload.shards > 1:
        share += SHARDED_MARGIN
    if workload.varied_lengths:
        share += VARIED_MARGIN
    return round(share * held)
