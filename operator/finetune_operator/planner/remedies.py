"""What would make a job fit that does not: the smallest changes, found by planning again with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.impossible import impossibility
from finetune_operator.api.methods import Method
from finetune_operator.api.spec import FineTuneJobSpec, Tuning
from finetune_operator.planner.candidate import Candidate
from finetune_operator.planner.candidates import divisors
from finetune_operator.planner.estimates import Known
from finetune_operator.planner.pools import Pool
from finetune_operator.planner.search import fits, search
from finetune_operator.planner.task import Task

MOST_GPUS_PROPOSED: Final = 64
SHORTEST_LENGTH_PROPOSED: Final = 512
CHANGES_PROPOSED: Final = 2


def remedies(
    task: Task, pools: tuple[Pool, ...], all_pools: tuple[Pool, ...], counts: tuple[int, ...], known: Known
) -> str:
    """Return what would help, as the end of a sentence: "needs 2 × A or 1 × B; or tuning.method: qlora"; empty when nothing was found."""
    attempt = _Attempt(task, pools, counts, known)
    hardware = list(_more_hardware(attempt, all_pools))
    settings = list(_other_settings(attempt))
    parts = []
    if hardware:
        parts.append(f"it needs {' or '.join(hardware)}")
    if settings:
        parts.append(("or " if hardware else "it fits with ") + ", or ".join(settings))
    return "; ".join(parts)


@dataclass(frozen=True)
class _Attempt:
    """What was tried without success."""

    task: Task
    pools: tuple[Pool, ...]
    counts: tuple[int, ...]
    known: Known

    def fits(self, task: Task | None) -> bool:
        """Whether a changed task would fit in the same place."""
        return task is not None and fits(task, self.pools, self.counts, self.known)

    def plan(self, task: Task | None) -> Candidate | None:
        """The plan of a changed task in the same place."""
        if not self.fits(task) or task is None:
            return None
        outcome = search(task, self.pools, self.counts, self.known)
        return outcome.chosen if outcome is not None else None


def _more_hardware(attempt: _Attempt, all_pools: tuple[Pool, ...]) -> Iterator[str]:
    """The fewest GPUs of an allowed type, and of any other type that is there."""
    allowed = attempt.pools
    for group in (allowed, tuple(pool for pool in all_pools if pool not in allowed)):
        best: tuple[float, int, str] | None = None
        for pool in group:
            count = _fewest(attempt, pool, () if group is allowed else attempt.counts)
            if count is not None and pool.product is not None:
                best = min(best or (float("inf"), 0, ""), (count * pool.gpu.price, count, pool.product))
        if best is not None:
            yield f"{best[1]} × {best[2]}"


def _fewest(attempt: _Attempt, pool: Pool, counts: tuple[int, ...]) -> int | None:
    """The fewest processes on `pool` that fit, among `counts` and all that divide the global batch."""
    task = attempt.task
    free = _without(task, "gpus", "min_gpus", "max_gpus", "pods", "processes")
    several = _without(free, "strategy") if task.spec.resources.strategy == "single" else free
    most = min(pool.nodes * pool.per_node, MOST_GPUS_PROPOSED)
    allowed = {*counts, *divisors(task.spec.training.global_batch_size)}
    for count in sorted(count for count in allowed if count <= most):
        if fits(several if count > 1 else free, (pool,), (count,), attempt.known):
            return count
    return None


def smaller_count(task: Task, pools: tuple[Pool, ...], known: Known) -> str:
    """Return the largest number of GPUs (or CPU processes) with which the job keeps within its limits, as a field to set; empty when none does."""
    free = _without(task, "gpus", "min_gpus", "max_gpus", "pods", "processes", "strategy")
    field = "processes" if task.spec.resources.accelerator == "cpu" else "gpus"
    counts = [count for count in divisors(task.spec.training.global_batch_size) if count <= MOST_GPUS_PROPOSED]
    for count in reversed(counts):
        outcome = search(free, pools, (count,), known)
        if outcome is not None and outcome.chosen is not None:
            return f"resources.{field}: {count} ({outcome.chosen.title})"
    return ""


def _other_settings(attempt: _Attempt) -> Iterator[str]:
    """The first changes of settings that fit, from the least harmful on: an override given up, then a smaller method, then shorter rows."""
    task = attempt.task
    changes: list[Callable[[], str | None]] = [
        lambda: _gives_up(attempt, "gradient_checkpointing"),
        lambda: _gives_up(attempt, "micro_batch_size"),
        lambda: _gives_up(attempt, "micro_batch_size", "gradient_checkpointing"),
        lambda: None if task.spec.resources.strategy == "single" else _gives_up(attempt, "strategy"),
        lambda: _gives_up(attempt, "pods"),
        lambda: "tuning.method: lora" if attempt.fits(_with_method(task, Method.LORA)) else None,
        lambda: "tuning.method: qlora" if attempt.fits(_with_method(task, Method.QLORA)) else None,
    ]
    found = 0
    for change in changes:
        text = change()
        # A pair of overrides need not be given up where one of them is enough.
        if text is not None and not (found and " and " in text):
            yield text
            found += 1
            if found == CHANGES_PROPOSED:
                return
    length = task.sequence_length // 2
    while not found and length >= SHORTEST_LENGTH_PROPOSED:
        if attempt.fits(replace(task, sequence_length=length)):
            yield f"training.maxLength: {length}"
            return
        length //= 2


def _gives_up(attempt: _Attempt, *fields: str) -> str | None:
    """What these overrides would have to be; None where one of them is not set or the job does not fit without them either."""
    resources = attempt.task.spec.resources
    if any(getattr(resources, field) in (None, "auto") for field in fields):
        return None
    planned = attempt.plan(_without(attempt.task, *fields))
    if planned is None:
        return None
    split = planned.split
    values = {
        "gradient_checkpointing": f"resources.gradientCheckpointing: {split.checkpointing}",
        "micro_batch_size": f"resources.microBatchSize: {_largest_micro_batch(attempt, planned, fields)}",
        "strategy": f"resources.strategy: {split.strategy}",
        "pods": f"resources.pods: {planned.pods}",
    }
    return " and ".join(values[field] for field in fields)


def _largest_micro_batch(attempt: _Attempt, planned: Candidate, fields: tuple[str, ...]) -> int:
    """The largest size that fits on as many processes: the smallest change of what the user asked for."""
    wanted = attempt.task.spec.resources.micro_batch_size
    share = planned.split.micro_batch * planned.split.accumulation
    free = _without(attempt.task, *fields)
    for size in sorted((size for size in divisors(share) if wanted is None or size < wanted), reverse=True):
        resources = free.spec.resources.model_copy(update={"micro_batch_size": size})
        if attempt.fits(replace(free, spec=free.spec.model_copy(update={"resources": resources}))):
            return size
    return planned.split.micro_batch


def _without(task: Task, *fields: str) -> Task:
    automatic = {"strategy", "gradient_checkpointing"}
    update = {field: "auto" if field in automatic else None for field in fields}
    resources = task.spec.resources.model_copy(update=update)
    return replace(task, spec=task.spec.model_copy(update={"resources": resources}))


def _with_method(task: Task, method: Method) -> Task | None:
    spec = task.spec
    is_smaller = spec.tuning.trains_base or (spec.tuning.method is Method.LORA and method is Method.QLORA)
    if not is_smaller or (method is Method.QLORA and not _can_quantise(spec)):
        return None
    tuning = Tuning(method=method, lora=spec.tuning.lora)
    return replace(task, spec=spec.model_copy(update={"tuning": tuning}))


def _can_quantise(spec: FineTuneJobSpec) -> bool:
    resources = spec.resources
    if spec.training.precision != "bf16" or resources.accelerator != "gpu":
        return False
    # What works with no strategy does not with one process either.
    strategy = Strategy.SINGLE if resources.strategy == "auto" else Strategy(resources.strategy)
    return not impossibility(Method.QLORA, strategy, "gpu", spec.training.optimizer, objective=spec.objective)
