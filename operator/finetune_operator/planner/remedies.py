"""What would make a job fit that does not: the smallest changes, found by planning again with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from finetune_operator.api.compatibility import Method
from finetune_operator.api.spec import FineTuneJobSpec, Tuning
from finetune_operator.planner.candidates import divisors
from finetune_operator.planner.search import Pool, choose, search
from finetune_operator.planner.task import Task

MOST_GPUS_PROPOSED: Final = 64
SHORTEST_LENGTH_PROPOSED: Final = 512


def remedies(task: Task, pools: tuple[Pool, ...], all_pools: tuple[Pool, ...], counts: tuple[int, ...]) -> str:
    """Return what would help, as the end of a sentence: "needs 2 × A or 1 × B; or tuning.method: qlora"; empty when nothing was found."""
    hardware = list(_more_hardware(task, pools, all_pools, counts))
    settings = list(_smaller_job(task, pools, counts))
    parts = []
    if hardware:
        parts.append(f"it needs {' or '.join(hardware)}")
    if settings:
        parts.append(("or " if hardware else "it fits with ") + ", or ".join(settings))
    return "; ".join(parts)


def _more_hardware(
    task: Task, pools: tuple[Pool, ...], all_pools: tuple[Pool, ...], counts: tuple[int, ...]
) -> Iterator[str]:
    """The fewest GPUs of an allowed type, and of any other type that is there."""
    for group in (pools, tuple(pool for pool in all_pools if pool not in pools)):
        best: tuple[float, int, str] | None = None
        for pool in group:
            count = _fewest(task, pool, counts if group is not pools else ())
            if count is not None and pool.product is not None:
                best = min(best or (float("inf"), 0, ""), (count * pool.gpu.price, count, pool.product))
        if best is not None:
            yield f"{best[1]} × {best[2]}"


def _fewest(task: Task, pool: Pool, counts: tuple[int, ...]) -> int | None:
    """The fewest processes on `pool` that fit, among all that divide the global batch; `counts` first."""
    free = _without(task, "gpus", "min_gpus", "max_gpus", "pods", "processes")
    available = pool.nodes * pool.per_node
    allowed = {
        *counts,
        *(count for count in divisors(task.spec.training.global_batch_size) if count <= MOST_GPUS_PROPOSED),
    }
    strategy = task.spec.resources.strategy
    for count in sorted(count for count in allowed if count <= available):
        if strategy == "single" and count > 1:
            free = _without(free, "strategy")
        if choose(free, search(free, (pool,), (count,))) is not None:
            return count
    return None


def smaller_count(task: Task, pools: tuple[Pool, ...]) -> str:
    """Return the largest number of GPUs (or CPU processes) with which the job keeps within its limits, as a field to set; empty when none does."""
    free = _without(task, "gpus", "min_gpus", "max_gpus", "pods", "processes", "strategy")
    field = "processes" if task.spec.resources.accelerator == "cpu" else "gpus"
    counts = [count for count in divisors(task.spec.training.global_batch_size) if count <= MOST_GPUS_PROPOSED]
    for count in reversed(counts):
        best = choose(free, search(free, pools, (count,)))
        if best is not None:
            return f"resources.{field}: {count} ({best.title})"
    return ""


def _smaller_job(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...]) -> Iterator[str]:
    """The first change of settings that fits, from the least harmful on."""
    changes: list[tuple[str, Callable[[], Task | None]]] = [
        ("resources.gradientCheckpointing: full", lambda: _relaxed(task, "gradient_checkpointing")),
        ("resources.microBatchSize: 1", lambda: _relaxed(task, "micro_batch_size")),
        (
            "resources.microBatchSize: 1 with resources.gradientCheckpointing: full",
            lambda: _relaxed(task, "micro_batch_size", "gradient_checkpointing"),
        ),
        (
            "resources.strategy: auto",
            lambda: None if task.spec.resources.strategy == "single" else _relaxed(task, "strategy"),
        ),
        ("tuning.method: lora", lambda: _with_method(task, Method.LORA)),
        ("tuning.method: qlora", lambda: _with_method(task, Method.QLORA)),
    ]
    found = 0
    for text, change in changes:
        changed = change()
        if changed is not None and choose(changed, search(changed, pools, counts)) is not None:
            yield text
            found += 1
            if found == 2:
                return
    length = task.sequence_length // 2
    while not found and length >= SHORTEST_LENGTH_PROPOSED:
        shorter = replace(task, sequence_length=length)
        if choose(shorter, search(shorter, pools, counts)) is not None:
            yield f"training.maxLength: {length}"
            return
        length //= 2


def _relaxed(task: Task, *fields: str) -> Task | None:
    """The task without these overrides; None where one of them is not set."""
    values = [getattr(task.spec.resources, field) for field in fields]
    return None if any(value in (None, "auto") for value in values) else _without(task, *fields)


def _without(task: Task, *fields: str) -> Task:
    automatic = {"strategy", "gradient_checkpointing"}
    update = {field: "auto" if field in automatic else None for field in fields}
    resources = task.spec.resources.model_copy(update=update)
    return replace(task, spec=task.spec.model_copy(update={"resources": resources}))


def _with_method(task: Task, method: Method) -> Task | None:
    order = (Method.FULL, Method.LORA, Method.QLORA)
    spec = task.spec
    is_smaller = order.index(method) > order.index(spec.tuning.method)
    if not is_smaller or (method is Method.QLORA and not _can_quantise(spec)):
        return None
    tuning = Tuning(method=method, lora=spec.tuning.lora)
    return replace(task, spec=spec.model_copy(update={"tuning": tuning}))


def _can_quantise(spec: FineTuneJobSpec) -> bool:
    return (
        spec.training.precision == "bf16" and spec.resources.accelerator == "gpu" and spec.resources.strategy != "zero2"
    )
