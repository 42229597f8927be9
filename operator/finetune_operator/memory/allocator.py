"""What the process holds beyond its live tensors: torch's caching allocator, CUDA context, NCCL; and how far a prediction may be off.

Three figures people read, each at its peak: `allocated` (torch.cuda.max_memory_allocated: live tensors), `reserved`
(max_memory_reserved: what the caching allocator took from the driver) and `device` (nvidia-smi: context and NCCL as well).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.kinds import LossKind, Quantization
from finetune_operator.memory.workload import Workload

WHOLE_LOGITS: Final = frozenset(
    {LossKind.FULL_LOGITS, LossKind.FUSED_LOGITS, LossKind.HELD_CHUNKS, LossKind.OUTPUT_CHUNKS}
)
"""Losses beside which tensors of every token's logits are alive."""

LASTING_SHARE: Final = 0.01
"""Holes among tensors that stay: sizes rounded up to segments of 2 and 20 MiB."""

PASSING_SHARE: Final = 0.06
"""Holes among activations, logits and temporaries when every step has the same length. Simulated with gradient checkpointing
(bench/allocator_fragmentation.py): 0.03 to 0.17, median 0.06. Measured: 0.12 with checkpointing and no whole logits (fms-acceleration, one GPU),
-0.02 without checkpointing (PEFT's MetaMathQA)."""

WHOLE_LOGITS_SHARE: Final = 0.20
"""Added to it where layers are computed again beside whole logits, whose blocks do not fit what layers ask for: 0.26 in all, the median over
sources of each one's median (bench/allocator_shares.py: ms-swift -0.07, fsdp_qlora 0.09, torchao 0.26, torchtitan 0.41, fms-acceleration 0.51)."""

SHARDED_SHARE: Final = 0.12
"""Added to it with FSDP 1 and ZeRO: what was gathered waits for its stream (record_stream, which FSDP 2 avoids). In fms-acceleration's runs the
sharded ones hold 0.16 more than those on one GPU without whole logits, 0.05 more beside them (bench/allocator_shares.py); and reserved exceeds
allocated by 12 % in fsdp_qlora's one run that prints both."""

FRESH_SHARE: Final = 0.02
"""The same without gradient checkpointing where the cache was emptied before the step. Simulated (bench/allocator_fragmentation.py, `fresh`):
0.00 to 0.06, mean 0.02."""

VARIED_SHARE: Final = 1.0
"""The same when lengths differ from step to step and segments cannot grow: a longer step does not fit into the blocks of shorter ones.
Simulated over two distributions, where the longest step does not come first: 0.7 to 2.1, mean 1.0; it is reached within 100 steps."""

LONGER_STEPS: Final = 4.2
"""How often a step longer than all before it arrives, weighted with its length: each time the float32 tensors of whole logits find no block that
holds them, and new segments are made beside the old ones. Of n steps in random order about ln(n) are such records. Simulated for 300 and 1,000
steps over four distributions of lengths (bench/longer_steps.py): median 4.2 times, 1.9 to 6.9 in eight of ten runs."""

NARROW_LOSS_SHARE: Final = 2 / 3
"""Of the 12 bytes that are alive per logit, 8 are float32 where the loss reads the compute type; the others fit into halves of older blocks."""

VARIED_MARGIN: Final = 0.25
"""Added to upper then: how soon a long step comes is chance. Nine of ten random orders lie below 6.9 / 4.2 of the idle bytes, which are
about a third of what the allocator holds."""

UPPER_MARGIN: Final = 0.09
"""upper = expected + this share of what the allocator holds: what the closed form misses. Of 91 published configurations with equal lengths on
one GPU, from seven sources, 95 % needed at most 6 % more than expected (docs/explanation/memory.md)."""

QUANTIZED_MARGIN: Final = 0.03
"""Added to it where weights are widened on the fly."""

SHARDED_MARGIN: Final = 0.08
"""Added to it for FSDP and ZeRO: gathered layers come and go. Of 59 published configurations 95 % needed at most 12 % more than expected."""

TRACED_MARGIN: Final = 0.10
"""Added to it for an architecture without a table: what a job adds to its traced layers is taken from others (memory/traced.py)."""


class IdleShares(NamedTuple):
    """What the allocator holds idle at one point of a step, as shares of the live bytes there."""

    lasting: float
    passing: float
    """Of activations and temporaries, and of logits, where no whole logits are alive."""
    beside_logits: float
    """Of activations and temporaries beside whole logits."""
    logits: float

    def of(self, live: int, passing: int, logits: int) -> int:
        """Return the idle bytes beside `live` bytes, of which `passing` pass, of which `logits` are logits."""
        rest = self.beside_logits * (passing - logits) + self.logits * logits if logits else self.passing * passing
        return round(self.lasting * (live - passing) + rest)


def idle_shares(workload: Workload) -> IdleShares:
    """Return the allocator's shares for a workload."""
    passing = _passing_share(workload)
    if not workload.varied_lengths or workload.loss is not LossKind.FULL_LOGITS:
        return IdleShares(LASTING_SHARE, passing, passing, passing)
    if workload.checkpointing is Checkpointing.NONE:
        # Kept activations are many tensors of a few sizes, which shorter steps' blocks hold; simulated, only the logits grow.
        passing = PASSING_SHARE
    outgrown = LONGER_STEPS * (NARROW_LOSS_SHARE if workload.software.narrow_loss else 1.0)
    return IdleShares(LASTING_SHARE, passing, PASSING_SHARE, outgrown)


def _passing_share(workload: Workload) -> float:
    """Return the holes among activations, logits and temporaries, as a share of their bytes."""
    if workload.software.empties_cache and workload.checkpointing is Checkpointing.NONE:
        return FRESH_SHARE
    share = VARIED_SHARE if workload.varied_lengths else PASSING_SHARE
    recomputed = workload.checkpointing is not Checkpointing.NONE
    if recomputed and workload.loss in WHOLE_LOGITS and not workload.varied_lengths:
        share += WHOLE_LOGITS_SHARE
    waits = workload.shards > 1 and (workload.strategy is not Strategy.FSDP or workload.flat_parameters)
    return share + (SHARDED_SHARE if waits else 0)


def margin_bytes(workload: Workload, held: int, *, holes: bool = True) -> int:
    """Return how many bytes above `held` the peak may lie; `holes`: `held` includes what the allocator holds idle."""
    share = UPPER_MARGIN
    if workload.quantization is not Quantization.NONE:
        share += QUANTIZED_MARGIN
    if workload.shards > 1:
        share += SHARDED_MARGIN
    if workload.varied_lengths and holes:
        share += VARIED_MARGIN
    return round(share * held)
