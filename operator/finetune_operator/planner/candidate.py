"""One complete way to run a job, with its memory and its time; and the estimates that many such ways share."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.history import Prediction
from finetune_operator.api.plan import MemoryEstimate, PodResources
from finetune_operator.memory.estimate import footprint
from finetune_operator.memory.footprint import Footprint
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.workload import Workload, workload_of
from finetune_operator.planner.candidates import Split
from finetune_operator.planner.history import UNCORRECTED, Correction, Peak, corrected
from finetune_operator.planner.pools import Pool
from finetune_operator.planner.roofline.work import Work, work_of
from finetune_operator.planner.task import Task

Known = dict[Workload, Footprint]
"""What the formulas said of workloads of one architecture: the search for a plan and those for remedies share it."""


@dataclass(frozen=True)
class Sized:
    """A split with its memory."""

    workload: Workload
    footprint: Footprint
    """As the formulas have it."""
    peak: Peak
    """As history corrected it."""
    correction: Correction

    @property
    def memory(self) -> MemoryEstimate:
        """Of one process, for the plan: its peak is corrected, phases and components stay the formulas'."""
        return self.footprint.estimate().model_copy(update=self.peak._asdict())


@dataclass(frozen=True)
class Candidate:
    """One complete way to run the job; `obstacle` says why it cannot be, if so."""

    pool: Pool
    split: Split
    pods: int
    sized: Sized
    resources: PodResources
    seconds: float
    """Of one optimizer step."""
    score: float
    """What the plan's objective minimises: seconds of a step, or with `cheapest` GPU-seconds weighted by the type's relative price."""
    obstacle: str = ""
    speed_correction: Correction = UNCORRECTED
    is_refused: bool = False
    """The nodes would take it; the obstacle is a quota or the namespace's policy."""

    @property
    def peak(self) -> Peak:
        """Of one process."""
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
        tokens = task.spec.training.global_batch_size * task.sequence_length
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
        return f"{where}, {self.split.strategy}, micro-batch {self.split.micro_batch}, {checkpointing}"


class Estimates:
    """Memory does not depend on the GPU type: each split is estimated once."""

    def __init__(self, task: Task, known: Known) -> None:
        self._task, self._known = task, known
        self._workloads: dict[Split, Workload] = {}
        self._sized: dict[Split, Sized] = {}
        self._works: dict[Split, Work] = {}
        self._corrections: dict[tuple[object, ...], Correction] = {}

    def workload(self, split: Split) -> Workload:
        """Return one process's share of a step."""
        found = self._workloads.get(split)
        if found is None:
            found = self._workloads[split] = workload_of(
                self._task.spec,
                sequence_length=self._task.sequence_length,
                micro_batch=split.micro_batch,
                accumulation=split.accumulation,
                strategy=split.strategy,
                processes=split.processes,
                checkpointing=split.checkpointing,
            )
        return found

    def work(self, split: Split) -> Work:
        """Return what one process computes and moves in a step."""
        found = self._works.get(split)
        if found is None:
            found = self._works[split] = work_of(self._task.architecture, self.workload(split))
        return found

    def of(self, split: Split) -> Sized:
        """Return the split with its memory."""
        found = self._sized.get(split)
        if found is None:
            workload, architecture = self.workload(split), self._task.architecture
            formula = self._known.get(workload)
            if formula is None:
                formula = self._known[workload] = footprint(architecture, workload)
            correction = self._correction(split)
            peak = corrected(Peak(formula.expected_bytes, formula.upper_bytes), correction)
            found = self._sized[split] = Sized(workload, formula, peak, correction)
        return found

    def states(self, split: Split) -> States:
        """Return what one process keeps from step to step."""
        return states_of(self._task.architecture, self.workload(split))

    def _correction(self, split: Split) -> Correction:
        if self._task.corrections.is_empty:
            return UNCORRECTED
        key = (split.processes, split.strategy, split.checkpointing)
        if key not in self._corrections:
            self._corrections[key] = self._task.corrections.memory(self._task.kind(split, None))
        return self._corrections[key]
