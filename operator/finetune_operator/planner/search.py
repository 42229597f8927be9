"""The search: every pool of nodes × every way to split the work, from the best score on, until one fits and its alternatives are known.

Time is quickly worked out and memory is not: so ways are looked at in the order of their score, and their memory is estimated when it is
their turn. Two facts keep estimates few: a larger micro-batch takes no longer, and of those that accumulate it needs no less memory (without
accumulation no earlier gradients are held beside the activations). The order is total and nothing random or unordered takes part: equal
inputs give equal plans in every process.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.plan import PodResources
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.candidate import Candidate, Rejected
from finetune_operator.planner.candidates import SHARDING_FIRST, SIMPLICITY, Split, prefers_sharding
from finetune_operator.planner.estimates import Estimates, Known, Sized
from finetune_operator.planner.history import UNCORRECTED, Correction
from finetune_operator.planner.host import pod_resources
from finetune_operator.planner.judging import host_bytes_of
from finetune_operator.planner.layouts import Layout, layouts_of
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
    nearest: Rejected | None
    """Of what would have been clearly better than the chosen one (without one, of everything) and cannot be, what comes nearest to fitting."""
    refused: Rejected | None
    """The best of what the nodes would take and quotas or the namespace's policy refuse."""


def search(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> Outcome | None:
    """Return the best way to run the job on `pools` with one of the process `counts`; None where no pool takes so many processes.

    Where nothing fits, states may go to host memory (resources.offload: auto).
    """
    found = _Search(task, pools, counts, known).outcome()
    if found is None or found.chosen is not None or task.spec.resources.offload != "auto":
        return found
    offloaded = _Search(replace(task, may_offload=True), pools, counts, known).outcome()
    if offloaded is None or offloaded.chosen is None:
        return found
    return replace(offloaded, nearest=found.nearest)


def fits(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> bool:
    """Return whether there is any way to run the job; it looks only at the micro-batches that can need least."""
    return _Search(task, pools, counts, known).fits()


class _Obstacle(NamedTuple):
    """Why a way cannot be."""

    text: str
    is_refused: bool = False


class _Search:
    def __init__(self, task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known) -> None:
        self._task, self._estimates = task, Estimates(task, known)
        self._layouts: list[Layout] = []
        self._hopeless: list[Layout] = []
        """What processes hold there, whatever their batch, is too much: most are never looked at again."""
        for layout in layouts_of(task, pools, counts):
            (self._layouts if self._least_share(layout) <= 1.0 else self._hopeless).append(layout)
        self._is_fastest = task.spec.resources.objective_of_plan == "fastest"
        self._emulates_bf16 = task.spec.training.precision == "bf16"
        self._step_seconds: dict[tuple[object, ...], float] = {}
        self._speeds: dict[tuple[object, ...], Correction] = {}
        self._resources: dict[tuple[object, ...], PodResources] = {}
        self._rejected: list[Rejected] = []

    def outcome(self) -> Outcome | None:
        if not self._layouts and not self._hopeless:
            return None
        ties: list[Candidate] = []
        best: dict[object, Candidate] = {}
        for candidate in self._from_best_score_on(best):
            if not ties or candidate.score <= ties[0].score * (1 + TIE):
                ties.append(candidate)
            best.setdefault(candidate.pool.product, candidate)
            best.setdefault(_kind(candidate.pool, candidate.split), candidate)
        if not ties:
            return Outcome(None, (), self._nearest(float("inf")), self._refused())
        chosen = min(ties, key=lambda candidate: _preference(self._task.spec, candidate))
        taken = (chosen.pool.product, _kind(chosen.pool, chosen.split))
        types = [other for key, other in best.items() if not isinstance(key, tuple) and key not in taken]
        kinds = [
            other for key, other in best.items() if isinstance(key, tuple) and key not in taken and other not in types
        ]
        others = sorted((types + kinds)[:ALTERNATIVES], key=lambda other: other.score)
        return Outcome(chosen, tuple(others), self._nearest(chosen.score * (1 - TIE)), self._refused())

    def fits(self) -> bool:
        return any(
            not isinstance(self._resources_of(layout, split), _Obstacle)
            for layout in reversed(self._layouts)
            for split in layout.leanest
        )

    def _least_share(self, layout: Layout) -> float:
        """How much of a GPU it needs at least; 0 on CPUs, whose memory several processes share."""
        if layout.pool.product is None:
            return 0.0
        return self._estimates.least_upper_bytes(layout.splits[0]) / layout.pool.usable_bytes

    def _nearest(self, limit: float) -> Rejected | None:
        """Of what cannot be and has a score below `limit`; the hopeless are estimated as long as one of them could be it."""
        nearest = min((way for way in self._rejected if way.score < limit), key=_distance, default=None)
        for layout in sorted(self._hopeless, key=self._least_share):
            if nearest is not None and self._least_share(layout) > nearest.share_of_capacity:
                break
            for split in dict.fromkeys((layout.splits[0], layout.splits[-1])):
                way = self._judged(layout, split) if self._score(layout, split) < limit else None
                if isinstance(way, Rejected) and (nearest is None or _distance(way) < _distance(nearest)):
                    nearest = way
        return nearest

    def _refused(self) -> Rejected | None:
        return min(
            (way for way in self._rejected if way.is_refused), key=lambda way: (way.score, way.title), default=None
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
            judged = self._judged(layout, layout.splits[position])
            if isinstance(judged, Rejected):
                self._rejected.append(judged)
                if position == 0 and self._never_fits(layout):
                    continue
            else:
                limit = min(limit, score * (1 + TIE))
                yield judged
            if position + 1 < len(layout.splits):
                following = self._score(layout, layout.splits[position + 1])
                if isinstance(judged, Rejected) or following <= limit:
                    heapq.heappush(heap, (following, number, position + 1))

    def _never_fits(self, layout: Layout) -> bool:
        """Whether smaller micro-batches than the largest, which does not fit, would not help either."""
        smallest = self._judged(layout, layout.splits[-1])
        if isinstance(smallest, Candidate):
            return False
        if len(layout.splits) > 1:
            self._rejected.append(smallest)
        return True

    def _score(self, layout: Layout, split: Split) -> float:
        seconds = self._seconds(layout, split)
        return (
            seconds
            if self._is_fastest
            else seconds * split.processes * self._task.prices.weight(layout.pool.product, layout.pool.gpu)
        )

    def _seconds(self, layout: Layout, split: Split) -> float:
        key = (layout.pool.product, layout.per_pod, split)
        if key not in self._step_seconds:
            self._step_seconds[key] = self._formula_seconds(layout, split) / self._speed(layout, split).factor
        return self._step_seconds[key]

    def _formula_seconds(self, layout: Layout, split: Split) -> float:
        gpu = layout.pool.gpu
        seconds = work_seconds(self._estimates.work(split), gpu, layout.per_pod)
        if self._emulates_bf16 and layout.pool.product is not None and not gpu.has_bf16:
            seconds *= BF16_EMULATION
        return seconds

    def _speed(self, layout: Layout, split: Split) -> Correction:
        if self._task.corrections.is_empty:
            return UNCORRECTED
        key = (layout.pool.product, split.processes, split.strategy, split.checkpointing, split.offload)
        if key not in self._speeds:
            self._speeds[key] = self._task.corrections.throughput(self._task.kind(split, layout.pool.product))
        return self._speeds[key]

    def _judged(self, layout: Layout, split: Split) -> Candidate | Rejected:
        found = self._resources_of(layout, split)
        seconds, score, speed = self._seconds(layout, split), self._score(layout, split), self._speed(layout, split)
        way = (layout.pool, split, layout.pods, self._estimates.of(split), seconds, score, speed)
        return Rejected(*way, *found) if isinstance(found, _Obstacle) else Candidate(*way, found)

    def _resources_of(self, layout: Layout, split: Split) -> PodResources | _Obstacle:
        """What each pod asks for, or why it cannot be; checkpoints wait on local disk only where memory lacks or is not granted."""
        in_memory = self._resources_with(layout, split, stages_in_memory=True)
        if not isinstance(in_memory, _Obstacle):
            return in_memory
        return self._resources_with(layout, split, stages_in_memory=False)

    def _resources_with(self, layout: Layout, split: Split, *, stages_in_memory: bool) -> PodResources | _Obstacle:
        pool, sized, limits = layout.pool, self._estimates.of(split), self._task.limits
        upper = sized.peak.upper_bytes
        if pool.product is not None and upper > pool.usable_bytes:
            return _Obstacle(f"GPU memory: needs up to {gib(upper)} of {gib(pool.usable_bytes)} GiB usable")
        placement = self._placement(layout, split, sized, stages_in_memory=stages_in_memory)
        if placement.obstacle or limits is NO_LIMITS:
            return _Obstacle(placement.obstacle) if placement.obstacle else placement.resources
        resources = within_cpu_bounds(limits, placement.resources, layout.pods, split.processes, pool.product)
        needs = needs_of(resources, layout.pods, pool.resource)
        refused = refusal(limits, needs, pool.product, resources.gpus * layout.pods)
        return _Obstacle(refused, is_refused=True) if refused else resources

    def _placement(self, layout: Layout, split: Split, sized: Sized, *, stages_in_memory: bool) -> Placement:
        pool, per_pod = layout.pool, layout.per_pod
        is_gpu = pool.product is not None

        def resources_of(processes_on_node: int) -> PodResources:
            sharing = max(per_pod, pool.per_node) if is_gpu else processes_on_node
            # On GPU nodes the micro-batch lives on the GPU alone.
            step = (split.processes, split.strategy, split.offload) if is_gpu else split
            key = (step, per_pod, pool.millicores, pool.has_disk, sharing, stages_in_memory)
            if key not in self._resources:
                self._resources[key] = pod_resources(
                    self._task.architecture,
                    sized.workload,
                    self._estimates.states(split),
                    sized.peak.upper_bytes,
                    processes_per_pod=per_pod,
                    weight_bytes=self._task.pod_weight_bytes,
                    encoded_bytes=self._task.encoded_bytes,
                    node_millicores=pool.millicores,
                    asks_for_disk=pool.has_disk,
                    processes_per_node=sharing,
                    stages_in_memory=stages_in_memory,
                    evaluation_bytes=host_bytes_of(
                        self._task.spec,
                        self._task.architecture,
                        sized.workload,
                        self._task.entailment_weights,
                        pool.capacity_bytes * per_pod if is_gpu else 0,
                    ),
                )
            return self._resources[key]

        return place(pool, layout.pods, per_pod, resources_of)


def _distance(way: Rejected) -> tuple[float, float, str]:
    return way.share_of_capacity, way.score, way.title


def _kind(pool: Pool, split: Split) -> tuple[object, ...]:
    return pool.product, split.processes, split.strategy


def _is_wanted(layout: Layout, best: dict[object, Candidate]) -> bool:
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
        order = SHARDING_FIRST
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
