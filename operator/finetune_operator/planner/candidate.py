"""Complete ways to run a job, with their memory and time: those that can be, and those that cannot with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.api.compatibility import Checkpointing, Offload
from finetune_operator.api.history import Prediction
from finetune_operator.api.plan import PodResources
from finetune_operator.planner.candidates import Split
from finetune_operator.planner.estimates import Sized
from finetune_operator.planner.history import Correction, Peak
from finetune_operator.planner.pools import Pool
from finetune_operator.planner.task import Task

_OFFLOADED: Final = {
    Offload.NONE: "",
    Offload.OPTIMIZER: " with the optimizer in host memory",
    Offload.PARAMETERS: " with all states in host memory",
    Offload.NVME: " with the optimizer on local disk",
}


@dataclass(frozen=True)
class Way:
    """A split of the job on nodes of a kind."""

    pool: Pool
    split: Split
    pods: int
    sized: Sized
    seconds: float
    """Of one optimizer step."""
    score: float
    """What the plan's objective minimises: seconds of a step, or with `cheapest` GPU-seconds weighted by the type's relative price."""
    speed_correction: Correction

    @property
    def peak(self) -> Peak:
        """Memory of one process."""
        return self.sized.peak

    @property
    def per_pod(self) -> int:
        """Processes in one pod."""
        return self.split.processes // self.pods

    @property
    def share_of_capacity(self) -> float:
        """How much of what a plan may use it needs; above 1 it does not fit."""
        return self.peak.upper_bytes / self.pool.usable_bytes

    def prediction(self, task: Task) -> Prediction:
        """Return what the formulas alone say of it."""
        rows = task.spec.training.global_batch_size
        tokens = rows * self.sized.workload.sequences_per_row * task.sequence_length
        return Prediction(
            kind=task.kind(self.split, self.pool.product),
            expected_bytes=self.sized.footprint.expected_bytes,
            tokens_per_second=round(tokens / (self.seconds * self.speed_correction.factor), 2),
        )

    @property
    def title(self) -> str:
        """What it is, in words."""
        count = self.split.processes
        where = (
            f"{count} × {self.pool.product}" if self.pool.product else f"{count} CPU process{'es' if count > 1 else ''}"
        )
        checkpointing = "checkpointing" if self.split.checkpointing is Checkpointing.FULL else "no checkpointing"
        strategy = f"{self.split.strategy}{_OFFLOADED[self.split.offload]}"
        return f"{where}, {strategy}, micro-batch {self.split.micro_batch}, {checkpointing}"


@dataclass(frozen=True)
class Candidate(Way):
    """One that can be."""

    resources: PodResources


@dataclass(frozen=True)
class Rejected(Way):
    """One that cannot."""

    obstacle: str
    is_refused: bool
    """The nodes would take it; the obstacle is a quota or the namespace's policy."""
