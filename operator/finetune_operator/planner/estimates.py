"""Memory and work of the ways to split a job. Neither depends on the GPU type: each split is estimated once, and most only roughly."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.plan import MemoryEstimate
from finetune_operator.memory.estimate import beside_passes, footprint
from finetune_operator.memory.footprint import Footprint
from finetune_operator.memory.own_workload import workload_of
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.candidates import Split
from finetune_operator.planner.history import UNCORRECTED, Correction, Peak, corrected
from finetune_operator.planner.reference import precomputes_reference
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


class Estimates:
    """What was worked out of one task."""

    def __init__(self, task: Task, known: Known) -> None:
        self._task, self._known = task, known
        self._workloads: dict[Split, Workload] = {}
        self._sized: dict[Split, Sized] = {}
        self._works: dict[Split, Work] = {}
        self._least: dict[tuple[int, Strategy, Offload], int] = {}
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
                offload=split.offload,
                processes=split.processes,
                checkpointing=split.checkpointing,
                packed=self._task.packed,
                model_type=self._task.architecture.model_type,
                reward_models=self._task.reward_models,
                precomputed_reference=precomputes_reference(self._task.spec, split.strategy, self._task.passes),
                teacher=self._task.teacher,
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
            workload = self.workload(split)
            formula = self._known.get(workload)
            if formula is None:
                formula = self._known[workload] = footprint(self._task.architecture, workload)
            correction = self._correction(split)
            found = self._sized[split] = Sized(workload, formula, _peak(formula, correction), correction)
        return found

    def least_upper_bytes(self, split: Split) -> int:
        """Return what `of(split)` says at least of the upper memory, from what processes hold whatever their batch."""
        key = (split.processes, split.strategy, split.offload)
        found = self._least.get(key)
        if found is None:
            formula = beside_passes(self._task.architecture, self.workload(split))
            found = self._least[key] = _peak(formula, self._correction(split)).upper_bytes
        return found

    def states(self, split: Split) -> States:
        """Return what one process keeps from step to step."""
        return states_of(self._task.architecture, self.workload(split))

    def _correction(self, split: Split) -> Correction:
        if self._task.corrections.is_empty:
            return UNCORRECTED
        key = (split.processes, split.strategy, split.checkpointing, split.offload)
        if key not in self._corrections:
            self._corrections[key] = self._task.corrections.memory(self._task.kind(split, None))
        return self._corrections[key]


def _peak(formula: Footprint, correction: Correction) -> Peak:
    return corrected(Peak(formula.expected_bytes, formula.upper_bytes), correction)
