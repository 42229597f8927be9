"""The search: every pool of nodes × every way to split the work, from the best score on, until one fits and its alternatives are known.

Time is quickly worked out and memory is not: so ways are looked at in the order of their score, and their memory is estimated when it is
their turn. Two facts keep estimates few: a larger micro-batch takes no longer, and of those that accumulate it needs no less memory (without
accumulation FSDP2 need not hold whole gradients). The order is total and nothing random or unordered takes part: equal inputs give equal
plans in every process.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.plan import PodResources
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.candidate import Candidate, Estimates, Known, Sized
from finetune_operator.planner.candidates import (
    SIMPLICITY,
    Split,
    checkpointings,
    divisors,
    micro_batches,
    prefers_sharding,
    strategies,
)
from finetune_operator.planner.history import UNCORRECTED, Correction
from finetune_operator.planner.host import pod_resources
from finetune_operator.planner.limits import NO_LIMITS, needs_of, refusal, within_cpu_bounds
from finetune_operator.planner.pools import Placement, Pool, gib, place
from finetune_operator.planner.task import Task
from finetune_operator.planner.throughput import work_seconds

TIE: Final = 0.03
"""Plans whose scores differ by less are equally good: the roofline does not know better."""
BF16_EMULATION: Final = 4.0
"""How much slower bfloat16 is on GPUs without it (T4, V100). Assumed."""
TIGHT: Final = 0.9
"""Share of what a plan may use, above which an equally good plan with less memory is preferred: estimates have errors."""
ALTERNATIVES: Final = 3


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    chosen: Candidate | None
    alternatives: tuple[Candidate, ...]
    """The best of other GPU types; where those are fewer than three, also of other counts and strategies. The best first."""
    rejected: tuple[Candidate, ...]
    """What was looked at and does not fit: of every layout that would have been better than the chosen one, at least its best."""


def search(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> Outcome | None:
    """Return the best way to run the job on `pools` with one of the process `counts`; None where no pool takes so many processes."""
    return _Search(task, pools, counts, known).outcome()


def fits(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> bool:
    """Return whether there is any way to run the job; it looks only at the micro-batches that can need least."""
    return _Search(task, pools, counts, known).fits()


@dataclass(frozen=True)
class _Layout:
    """Where and over how many processes the job is spread; a step can still be split into micro-batches of several sizes."""

    pool: Pool
    pods: int
    processes: int
    strategy: Strategy
    checkpointing: Checkpointing
    splits: tuple[Split, ...]
    """From the largest micro-batch on."""

    @property
    def per_pod(self) -> int:
        return self.processes // self.pods

    @property
    def leanest(self) -> tuple[Split, ...]:
        """One of these needs the least memory: the smallest micro-batch, or the one without accumulation."""
        largest, smallest = self.splits[0], self.splits[-1]
        return (smallest, largest) if largest.accumulation == 1 and largest != smallest else (smallest,)


class _Search:
    def __init__(self, task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> None:
        self._task, self._estimates = task, Estimates(task, known)
        self._layouts = list(_layouts(task, pools, counts))
        self._is_fastest = task.spec.resources.objective_of_plan == "fastest"
        self._emulates_bf16 = task.spec.training.precision == "bf16"
        self._step_seconds: dict[tuple[object, ...], float] = {}
        self._speeds: dict[tuple[object, ...], Correction] = {}
        self._resources: dict[tuple[object, ...], PodResources] = {}
        self._rejected: list[Candidate] = []

    def outcome(self) -> Outcome | None:
        if not self._layouts:
            return None
        ties: list[Candidate] = []
        best: dict[object, Candidate] = {}
        for candidate in self._from_best_score_on(best):
            if not ties or candidate.score <= ties[0].score * (1 + TIE):
                ties.append(candidate)
            best.setdefault(candidate.pool.product, candidate)
            best.setdefault(_kind(candidate.pool, candidate.split), candidate)
        if not ties:
            return Outcome(None, (), tuple(self._rejected))
        chosen = min(ties, key=lambda candidate: _preference(self._task.spec, candidate))
        taken = (chosen.pool.product, _kind(chosen.pool, chosen.split))
        types = [other for key, other in best.items() if not isinstance(key, tuple) and key not in taken]
        kinds = [
            other for key, other in best.items() if isinstance(key, tuple) and key not in taken and other not in types
        ]
        others = sorted((types + kinds)[:ALTERNATIVES], key=lambda other: other.score)
        return Outcome(chosen, tuple(others), tuple(self._rejected))

    def fits(self) -> bool:
        return any(
            not self._candidate(layout, split).obstacle
            for layout in reversed(self._layouts)
            for split in layout.leanest
        )

    def _from_best_score_on(self, best: dict[object, Candidate]) -> Iterator[Candidate]:
        """Yield what fits and is as good as the best, then what `best` lacks; note in `_rejected` what does not fit."""
        heap = [(self._score(layout, layout.splits[0]), number, 0) for number, layout in enumerate(self._layouts)]
        heapq.heapify(heap)
        limit = float("inf")
        while heap:
            score, number, position = heapq.heappop(heap)
            layout = self._layouts[number]
            if score > limit and not _is_wanted(layout, best):
                continue
            candidate = self._candidate(layout, layout.splits[position])
            if candidate.obstacle:
                self._rejected.append(candidate)
                if position == 0 and self._never_fits(layout, candidate):
                    continue
            else:
                limit = min(limit, score * (1 + TIE))
                yield candidate
            if position + 1 < len(layout.splits):
                following = self._score(layout, layout.splits[position + 1])
                if candidate.obstacle or following <= limit:
                    heapq.heappush(heap, (following, number, position + 1))

    def _never_fits(self, layout: _Layout, largest: Candidate) -> bool:
        """Whether smaller micro-batches would not help either."""
        smallest = self._candidate(layout, layout.splits[-1])
        if smallest.obstacle and smallest.split != largest.split:
            self._rejected.append(smallest)
        return bool(smallest.obstacle)

    def _score(self, layout: _Layout, split: Split) -> float:
        seconds = self._seconds(layout, split)
        return (
            seconds
            if self._is_fastest
            else seconds * split.processes * self._task.prices.weight(layout.pool.product, layout.pool.gpu)
        )

    def _seconds(self, layout: _Layout, split: Split) -> float:
        key = (layout.pool.product, layout.per_pod, split)
        if key not in self._step_seconds:
            self._step_seconds[key] = self._formula_seconds(layout, split) / self._speed(layout, split).factor
        return self._step_seconds[key]

    def _formula_seconds(self, layout: _Layout, split: Split) -> float:
        gpu = layout.pool.gpu
        seconds = work_seconds(self._estimates.work(split), gpu, layout.per_pod)
        if self._emulates_bf16 and layout.pool.product is not None and not gpu.has_bf16:
            seconds *= BF16_EMULATION
        return seconds

    def _speed(self, layout: _Layout, split: Split) -> Correction:
        if self._task.corrections.is_empty:
            return UNCORRECTED
        key = (layout.pool.product, split.processes, split.strategy, split.checkpointing)
        if key not in self._speeds:
            self._speeds[key] = self._task.corrections.throughput(self._task.kind(split, layout.pool.product))
        return self._speeds[key]

    def _candidate(self, layout: _Layout, split: Split) -> Candidate:
        pool, sized = layout.pool, self._estimates.of(split)
        placement = self._placement(layout, split, sized)
        resources, obstacle, upper = placement.resources, placement.obstacle, sized.peak.upper_bytes
        if pool.product is not None and upper > pool.usable_bytes:
            obstacle = f"GPU memory: needs up to {gib(upper)} of {gib(pool.usable_bytes)} GiB usable"
        refused, limits = "", self._task.limits
        if limits is not NO_LIMITS:
            resources = within_cpu_bounds(limits, resources, layout.pods, split.processes, pool.product)
            needs = needs_of(resources, layout.pods, pool.resource)
            refused = "" if obstacle else refusal(limits, needs, pool.product, resources.gpus * layout.pods)
        return Candidate(
            pool,
            split,
            layout.pods,
            sized,
            resources,
            self._seconds(layout, split),
            self._score(layout, split),
            obstacle or refused,
            self._speed(layout, split),
            bool(refused),
        )

    def _placement(self, layout: _Layout, split: Split, sized: Sized) -> Placement:
        pool, per_pod = layout.pool, layout.per_pod
        is_gpu = pool.product is not None

        def resources_of(processes_on_node: int) -> PodResources:
            sharing = max(per_pod, pool.per_node) if is_gpu else processes_on_node
            # On GPU nodes the micro-batch lives on the GPU alone.
            step = (split.processes, split.strategy) if is_gpu else split
            key = (step, per_pod, pool.millicores, pool.has_disk, sharing)
            if key not in self._resources:
                self._resources[key] = pod_resources(
                    self._task.architecture,
                    sized.workload,
                    self._estimates.states(split),
                    sized.peak.upper_bytes,
                    processes_per_pod=per_pod,
                    weight_bytes=self._task.weight_bytes,
                    node_millicores=pool.millicores,
                    asks_for_disk=pool.has_disk,
                    processes_per_node=sharing,
                )
            return self._resources[key]

        return place(pool, layout.pods, per_pod, resources_of)


def _layouts(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...]) -> Iterator[_Layout]:
    spec = task.spec
    for count in counts:
        places = [(pool, pods) for pool in pools for pods in _pod_counts(spec, pool, count)]
        sizes = micro_batches(spec, count, task.sequence_length)
        if not places or not sizes:
            continue
        for strategy in strategies(spec, count):
            for checkpointing in checkpointings(spec):
                share = spec.training.global_batch_size // count
                splits = tuple(
                    Split(count, strategy, size, share // size, checkpointing) for size in sorted(sizes, reverse=True)
                )
                for pool, pods in places:
                    yield _Layout(pool, pods, count, strategy, checkpointing, splits)


def _pod_counts(spec: FineTuneJobSpec, pool: Pool, processes: int) -> Iterator[int]:
    """Yield the numbers of pods that the pool can hold: on GPU nodes the smallest, on CPU nodes all, from the smallest on."""
    if pool.shared and processes > 1:
        return
    wanted = [spec.resources.pods] if spec.resources.pods is not None else divisors(processes)
    for pods in wanted:
        if processes % pods or processes // pods > pool.per_node:
            continue
        if pool.nodes * (pool.per_node // (processes // pods)) < pods:
            continue
        yield pods
        if pool.product is not None:
            return


def _kind(pool: Pool, split: Split) -> tuple[object, ...]:
    return pool.product, split.processes, split.strategy


def _is_wanted(layout: _Layout, best: dict[object, Candidate]) -> bool:
    """Whether it could still be shown as an alternative: the first of its type, or while there are few, of its count and strategy."""
    found = sum(1 for key in best if not isinstance(key, tuple))
    if found > ALTERNATIVES or layout.pool.product not in best:
        return found <= ALTERNATIVES
    kinds = len(best) - found
    return kinds <= ALTERNATIVES and _kind(layout.pool, layout.splits[0]) not in best


def _preference(spec: FineTuneJobSpec, candidate: Candidate) -> tuple[object, ...]:
    """Among equally good plans: not a tight one, the simplest strategy, the fewest processes and pods, no checkpointing, the least memory."""
    split, order = candidate.split, SIMPLICITY
    if prefers_sharding(spec.tuning.method, spec.resources.accelerator):
        order = (Strategy.SINGLE, Strategy.FSDP, Strategy.ZERO2, Strategy.DDP)
    return (
        candidate.share_of_capacity > TIGHT,
        order.index(split.strategy),
        split.processes,
        candidate.pods,
        split.checkpointing is Checkpointing.FULL,
        candidate.peak.upper_bytes,
        candidate.score,
        candidate.pool.product or "",
        split.micro_batch,
    )
