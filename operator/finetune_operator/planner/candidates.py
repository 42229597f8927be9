"""Every way to run a job that keeps its global batch and that the trainer can start, before memory is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from finetune_operator.api.compatibility import (
    SHARDED_STRATEGIES,
    Checkpointing,
    Offload,
    Strategy,
    least_micro_batch,
    offloads,
    resume_obstacle,
)
from finetune_operator.api.impossible import impossibility
from finetune_operator.api.inspection import ResumePoint
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.reference import keeps_whole_reference

DEFAULT_MOST_GPUS: Final = 8
MOST_TOKENS_PER_MICRO_BATCH: Final = 65_536
"""Larger micro-batches win no speed on any GPU of the catalogue; a single sequence may be longer."""

SIMPLICITY: Final = (Strategy.SINGLE, Strategy.DDP, Strategy.FSDP, Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3)
"""From the simplest strategy on: among equally good plans the earlier one is taken. FSDP2 comes before DeepSpeed, whose
checkpoints no other strategy goes on from, and ZeRO-3's no other number of processes."""
SHARDING_FIRST: Final = (
    Strategy.SINGLE,
    Strategy.FSDP,
    Strategy.ZERO3,
    Strategy.ZERO2,
    Strategy.ZERO1,
    Strategy.DDP,
)
"""The same where memory is what lacks (`prefers_sharding`)."""


@dataclass(frozen=True)
class Split:
    """One way to split the work: over processes, into micro-batches, with or without checkpointing."""

    processes: int
    strategy: Strategy
    micro_batch: int
    accumulation: int
    checkpointing: Checkpointing
    offload: Offload = Offload.NONE


def process_counts(spec: FineTuneJobSpec) -> tuple[int, ...] | PlanError:
    """Return the numbers of processes that the spec allows and that divide the global batch, or why there is none."""
    resources, batch = spec.resources, spec.training.global_batch_size
    if resources.accelerator == "cpu":
        wanted, field = [resources.processes or 1], "resources.processes"
    elif resources.gpus is not None:
        wanted, field = [resources.gpus], "resources.gpus"
    else:
        fewest = resources.min_gpus or 1
        most = resources.max_gpus or max(fewest, DEFAULT_MOST_GPUS)
        wanted, field = list(range(fewest, most + 1)), "resources.minGPUs to maxGPUs"
    least = least_micro_batch(spec.objective)
    if wanted[0] * least > batch:
        return PlanError(
            reason=Reason.INVALID_SPEC,
            message=f"training.globalBatchSize: {batch} leaves each of {wanted[0]} processes fewer than the {least} rows that objective: "
            f"{spec.objective} compares with each other; set globalBatchSize: {wanted[0] * least} or more, or {field} to less",
        )
    fitting = tuple(count for count in wanted if batch % count == 0 and batch // count >= least)
    if resources.pods is not None:
        fitting = tuple(count for count in fitting if count % resources.pods == 0)
    if resources.strategy not in ("auto", "single") or resources.offload not in ("auto", "none"):
        if fitting == (1,):
            return _too_few(spec)
        fitting = tuple(count for count in fitting if count > 1)
    if fitting:
        return fitting
    shown = str(wanted[0]) if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
    near = [count for count in divisors(batch) if resources.pods is None or count % resources.pods == 0]
    nearest = sorted(near, key=lambda count: (abs(count - wanted[0]), count))[:3]
    pods = f" and are a multiple of resources.pods: {resources.pods}" if resources.pods is not None else ""
    advice = f"use one of {', '.join(map(str, sorted(nearest)))}" if nearest else "change resources.pods"
    rounded = -(-batch // wanted[0]) * wanted[0]
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=(
            f"{field}: {shown} cannot share training.globalBatchSize: {batch} evenly; counts must divide {batch}{pods}: {advice}, "
            f"or set training.globalBatchSize to a multiple of {wanted[0]} such as {rounded}"
        ),
    )


def _too_few(spec: FineTuneJobSpec) -> PlanError:
    field = "resources.processes" if spec.resources.accelerator == "cpu" else "resources.gpus"
    least = next((count for count in divisors(spec.training.global_batch_size) if count > 1), None)
    advice = (
        f"set {field}: {least}, or "
        if least is not None
        else "raise training.globalBatchSize and set " + field + ": 2, or "
    )
    is_offload = spec.resources.offload not in ("auto", "none")
    wanted = f"offload: {spec.resources.offload}" if is_offload else f"strategy: {spec.resources.strategy}"
    otherwise = "offload: none" if is_offload else "strategy: single"
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=f"resources.{wanted} is for several processes and this job has one; {advice}resources.{otherwise}",
    )


def check_micro_batch(spec: FineTuneJobSpec, counts: tuple[int, ...]) -> PlanError | None:
    """Return why the spec's own micro-batch cannot make up the global batch with any of these process counts, or None."""
    micro_batch, batch = spec.resources.micro_batch_size, spec.training.global_batch_size
    if micro_batch is None or any(batch % (count * micro_batch) == 0 for count in counts):
        return None
    per_process = sorted({batch // count for count in counts}, reverse=True)
    allowed = sorted({size for share in per_process for size in divisors(share)})
    shown = ", ".join(map(str, allowed[:8])) + (", …" if len(allowed) > 8 else "")
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=(
            f"resources.microBatchSize: {micro_batch} × processes does not divide training.globalBatchSize: {batch}; "
            f"use one of {shown}, or remove it and let it be planned"
        ),
    )


def strategies(spec: FineTuneJobSpec, processes: int, resume: ResumePoint | None = None) -> tuple[Strategy, ...]:
    """Return the strategies that are possible with so many processes, from the simplest on; those that go on from `resume` where there is one."""
    wanted = spec.resources.strategy
    candidates: list[Strategy] = [s for s in SIMPLICITY if wanted in ("auto", s)]
    candidates = [s for s in candidates if (s is Strategy.SINGLE) == (processes == 1)]
    method, accelerator = spec.tuning.method, spec.resources.accelerator
    optimizer = spec.training.optimizer
    candidates = [
        s for s in candidates if impossibility(method, s, accelerator, optimizer, objective=spec.objective) is None
    ]
    if keeps_whole_reference(spec):
        candidates = [s for s in candidates if s not in SHARDED_STRATEGIES]
    return tuple(s for s in candidates if resume is None or _obstacle(resume, s, processes, spec) is None)


def check_resume(spec: FineTuneJobSpec, counts: tuple[int, ...], resume: ResumePoint | None) -> PlanError | None:
    """Return why no allowed strategy and process count goes on from the checkpoint that the job is to start from, or None."""
    if resume is None or any(strategies(spec, count, resume) for count in counts):
        return None
    ways = ((strategy, count) for count in counts for strategy in strategies(spec, count))
    why = next((_obstacle(resume, *way, spec) for way in ways), None) or "no strategy is possible with these resources"
    field = "resources.processes" if spec.resources.accelerator == "cpu" else "resources.gpus"
    fits_disk = (resume.offload == Offload.NVME) == (spec.resources.offload == "nvme")
    offload = "" if fits_disk else f", and resources.offload: {resume.offload}"
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message=f"checkpoint.resumeFrom: {resume.uri} cannot be resumed: {why}; set resources.strategy: {resume.strategy} and {field}: "
        f"{resume.processes}{offload}",
    )


def _obstacle(resume: ResumePoint, strategy: Strategy, processes: int, spec: FineTuneJobSpec) -> str | None:
    return resume_obstacle(
        Strategy(resume.strategy),
        resume.processes,
        strategy,
        processes,
        was_swapped=resume.offload == Offload.NVME,
        is_swapped=spec.resources.offload == "nvme",
    )


def offload_choices(spec: FineTuneJobSpec, strategy: Strategy, *, may: bool) -> tuple[Offload, ...]:
    """Return what to keep in host memory is considered: what the spec asks for; with auto nothing, or where it `may`, everything possible.

    Local disks only where the spec asks for them: the inventory does not tell how fast they are.
    """
    wanted, possible = spec.resources.offload, offloads(spec.tuning.method, strategy)
    if wanted == "auto":
        in_memory = tuple(offload for offload in possible if offload is not Offload.NVME)
        return in_memory if may and spec.resources.accelerator == "gpu" else (Offload.NONE,)
    if wanted == "none":
        return (Offload.NONE,)
    return (Offload(wanted),) if wanted in possible else ()


def forbidden_strategy(spec: FineTuneJobSpec) -> PlanError | None:
    """Return why the spec's own strategy does not work with its method, or None."""
    if spec.resources.strategy == "auto":
        return None
    method, optimizer = spec.tuning.method, spec.training.optimizer
    accelerator, objective = spec.resources.accelerator, spec.objective
    row = impossibility(method, Strategy(spec.resources.strategy), accelerator, optimizer, objective=objective)
    if row is None:
        return None
    other = f"tuning.method: {method}" if row.optimizer is None else f"training.optimizer: {optimizer}"
    return PlanError(
        reason=Reason.UNSUPPORTED_COMBINATION,
        message=f"resources.strategy: {spec.resources.strategy} with {other}: {row.why}; {row.remedy}",
    )


def micro_batches(spec: FineTuneJobSpec, processes: int, sequence_length: int) -> tuple[int, ...]:
    """Return the micro-batch sizes that make up the global batch with so many processes, in ascending order."""
    share = spec.training.global_batch_size // processes
    wanted = spec.resources.micro_batch_size
    if wanted is not None:
        return (wanted,) if share % wanted == 0 else ()
    least = least_micro_batch(spec.objective)
    most = max(1, MOST_TOKENS_PER_MICRO_BATCH // sequence_length)
    return tuple(size for size in divisors(share) if least <= size <= max(least, most))


def checkpointings(spec: FineTuneJobSpec) -> tuple[Checkpointing, ...]:
    """Return the kinds of gradient checkpointing that the spec allows."""
    wanted = spec.resources.gradient_checkpointing
    kinds = (Checkpointing.NONE, Checkpointing.FULL) if wanted == "auto" else (Checkpointing(wanted),)
    method, accelerator = spec.tuning.method, spec.resources.accelerator
    return tuple(
        kind
        for kind in kinds
        if impossibility(method, Strategy.SINGLE, accelerator, spec.training.optimizer, kind) is None
    )


@lru_cache(maxsize=1024)
def divisors(number: int) -> tuple[int, ...]:
    """Return all divisors of a positive number in ascending order."""
    small = [value for value in range(1, int(number**0.5) + 1) if number % value == 0]
    return tuple(sorted({*small, *(number // value for value in small)}))


def prefers_sharding(method: Method, accelerator: str) -> bool:
    """Whether several processes shard rather than copy where speed says nothing: full training on CPUs, where memory is what lacks."""
    return accelerator == "cpu" and method is Method.FULL
