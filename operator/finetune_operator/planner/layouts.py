"""Where and over how many processes a job can be spread, and into which micro-batches its step can then be split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.candidates import (
    Split,
    checkpointings,
    divisors,
    micro_batches,
    offload_choices,
    strategies,
)
from finetune_operator.planner.pools import Pool
from finetune_operator.planner.task import Task


@dataclass(frozen=True)
class Layout:
    """Where and over how many processes the job is spread; a step can still be split into micro-batches of several sizes."""

    pool: Pool
    pods: int
    processes: int
    strategy: Strategy
    checkpointing: Checkpointing
    offload: Offload
    splits: tuple[Split, ...]
    """From the largest micro-batch on."""

    @property
    def per_pod(self) -> int:
        """Processes in one pod."""
        return self.processes // self.pods

    @property
    def leanest(self) -> tuple[Split, ...]:
        """One of these needs the least memory: the smallest micro-batch, or the one without accumulation."""
        largest, smallest = self.splits[0], self.splits[-1]
        return (smallest, largest) if largest.accumulation == 1 and largest != smallest else (smallest,)


def layouts_of(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...]) -> Iterator[Layout]:
    """Yield every layout on `pools` with one of the process `counts`, in a fixed order."""
    spec = task.spec
    for count in counts:
        places = [(pool, pods) for pool in pools for pods in _pod_counts(spec, pool, count)]
        sizes = micro_batches(spec, count, task.sequence_length)
        if not places or not sizes:
            continue
        for strategy in strategies(spec, count, task.resume):
            offloads = offload_choices(spec, strategy, may=task.may_offload)
            for checkpointing, offload in product(checkpointings(spec), offloads):
                share = spec.training.global_batch_size // count
                splits = tuple(
                    Split(count, strategy, size, share // size, checkpointing, offload)
                    for size in sorted(sizes, reverse=True)
                )
                for pool, pods in places:
                    yield Layout(pool, pods, count, strategy, checkpointing, offload, splits)


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
