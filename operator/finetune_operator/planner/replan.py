"""The next plan after a GPU ran out of memory: less memory by at least what was missing, the same global batch, and an end after three tries.

The formulas were wrong for this job by what was measured less what they said at most; that much is kept free on every GPU from then on. What
changes is as little as helps, in the order of its price: compute activations again, smaller micro-batches, more sharding, more GPUs, other
GPUs. The global batch stays, and with it the loss curve; what the user has set stays too. Changes of the strategy come late for another reason as
well: a checkpoint is resumed only by the strategy that wrote it, so such a plan starts afresh. Offload is not among the steps: the trainer
does not start it.

Pure, and not yet wired: `jobs.retry.judge` gives up on `GpuOutOfMemory` where it will return a replan. All that `replan` wants is there: spec and
inspection in the attempt's file, and of every such attempt its plan with its termination message (`ran_out`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import GIB, Phase, Plan, PlanError
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.candidates import DEFAULT_MOST_GPUS, divisors
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, Limits
from finetune_operator.planner.plan import question_of
from finetune_operator.planner.pools import GPU_RESERVE, gib

MOST_REPLANS: Final = 3
LEAST_REDUCTION: Final = 0.05
"""Of a GPU's memory, times the number of the replan: the allocation that failed is only the first of those that would have been missing."""

_TRIED: Final = re.compile(r"Tried to allocate (\d+(?:\.\d+)?) ([KMG])iB")
_UNITS: Final = {"K": 2**10, "M": 2**20, "G": GIB}
_SHARDING: Final = (Strategy.DDP, Strategy.ZERO2, Strategy.FSDP)
"""From whole copies on; a strategy later in the row spreads more."""


@dataclass(frozen=True)
class RanOut:
    """A plan whose GPU had too little memory, and what was measured then."""

    plan: Plan
    peak_bytes: int | None = None
    """What the process held before the allocation that failed (device memory)."""
    requested_bytes: int = 0
    """What it could not get."""
    phase: Phase | None = None
    """Where in the step it was, if that is known."""

    @property
    def capacity_bytes(self) -> int:
        """Memory of one GPU."""
        return self.plan.gpu_memory_bytes or 0

    @property
    def needed_bytes(self) -> int:
        """What was needed at least: more than there was, whatever the measurement says."""
        return max((self.peak_bytes or 0) + self.requested_bytes, self.capacity_bytes)

    @property
    def predicted_bytes(self) -> int:
        """What the formulas said of that phase, or at most of the whole step."""
        for phase in self.plan.memory.phases:
            if phase.phase is self.phase:
                return phase.total
        return self.plan.memory.upper_bytes

    @property
    def missed_bytes(self) -> int:
        """By how much the formulas were too low."""
        return max(0, self.needed_bytes - self.predicted_bytes)


def ran_out(plan: Plan, message: TerminationMessage, phase: Phase | None = None) -> RanOut:
    """Return what an attempt that ended by `GpuOutOfMemory` tells; torch's message names the request."""
    found = _TRIED.search(message.message)
    requested = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    return RanOut(plan, message.peak_memory_bytes, requested, phase)


def replan(
    spec: FineTuneJobSpec,
    inspection: InspectionReport | None,
    inventory: Inventory,
    failures: Sequence[RanOut],
    *,
    history: History = EMPTY_HISTORY,
    limits: Limits = NO_LIMITS,
    prices: Prices = NO_PRICES,
    config: Mapping[str, JsonValue] | None = None,
    rows: int = 0,
) -> Plan | PlanError:
    """Return the plan of the next attempt.

    Args:
        spec: What the user wants; what it sets is never changed.
        inspection: What was learned about model and data.
        inventory: What the cluster has now.
        failures: Every attempt of this job whose GPU ran out of memory, the oldest first; at least one.
        history: As the first plan's.
        limits: As the first plan's.
        prices: As the first plan's.
        config: As the first plan's.
        rows: As the first plan's.

    Returns:
        A plan with the same global batch that leaves free on every GPU what the formulas have missed: on the same GPU type its `upper` lies below
        the failed plan's by at least the shortfall. A PlanError after three replans, or where nothing smaller is possible or allowed.
    """
    last, number = failures[-1], len(failures)
    if last.plan.accelerator != "gpu":
        return _refused(
            last,
            "the job has no GPU; a pod that ran out of host memory needs larger nodes or more pods: resources.pods",
        )
    if number > MOST_REPLANS:
        return _refused(last, f"it is the plan of replan {MOST_REPLANS} of {MOST_REPLANS}; {_ADVICE}")
    kept_free = max(_kept_free(failure, count) for count, failure in enumerate(failures, 1))
    for resources in _steps(spec, last.plan):
        changed = spec.model_copy(update={"resources": spec.resources.model_copy(update=resources)})
        question = question_of(
            changed,
            inspection,
            inventory,
            history=history,
            limits=limits,
            prices=prices,
            config=config,
            rows=rows,
            kept_free_bytes=kept_free,
        )
        plan = None if isinstance(question, PlanError) else question.plan(question.search({}))
        if plan is not None and _has_room(plan, last):
            why = f"replan {number} of {MOST_REPLANS}: {_situation(last)}; changed: {_difference(last.plan, plan)}"
            return plan.model_copy(update={"reasons": (why, *plan.reasons)})
    return _refused(last, f"no plan with the same global batch leaves {gib(kept_free)} GiB more free; {_ADVICE}")


_ADVICE: Final = (
    "allow more or larger GPUs (resources.maxGPUs, resources.gpuProduct), remove overrides under resources, lower training.maxLength, or use a "
    "smaller tuning.method; then delete the job and create it anew"
)


def _kept_free(failure: RanOut, number: int) -> int:
    # By the bound that plans keep to, whatever the phase: the reserve of 2 % was part of what did not suffice.
    missed = failure.needed_bytes - failure.plan.memory.upper_bytes
    return max(0, missed) + round(LEAST_REDUCTION * number * failure.capacity_bytes)


def _has_room(plan: Plan, failed: RanOut) -> bool:
    """Whether the phase that failed is smaller too, by what its own formula missed; other phases' peaks do not help it."""
    if failed.phase is None:
        return True
    total = next((phase.total for phase in plan.memory.phases if phase.phase is failed.phase), 0)
    return total + failed.missed_bytes <= (plan.gpu_memory_bytes or 0) * (1 - GPU_RESERVE)


def _steps(spec: FineTuneJobSpec, failed: Plan) -> Iterator[dict[str, Any]]:
    """Yield overrides of resources from the smallest change on; those that contradict what the user has set are left out."""
    same: dict[str, Any] = {
        "gpu_product": [failed.gpu_product],
        "gpus": failed.processes,
        "min_gpus": None,
        "max_gpus": None,
        "strategy": str(failed.strategy),
        "micro_batch_size": failed.micro_batch_size,
        "gradient_checkpointing": str(failed.gradient_checkpointing),
    }
    wished = spec.resources
    leaner = same
    if failed.gradient_checkpointing is Checkpointing.NONE and wished.gradient_checkpointing == "auto":
        leaner = {**same, "gradient_checkpointing": "full"}
        yield leaner
    if wished.micro_batch_size is None:
        for size in reversed(divisors(failed.global_batch_size // failed.processes)):
            if size < failed.micro_batch_size:
                yield {**leaner, "micro_batch_size": size}
    free = {
        "micro_batch_size": wished.micro_batch_size,
        "gradient_checkpointing": wished.gradient_checkpointing,
        "strategy": wished.strategy,
    }
    if wished.strategy == "auto" and failed.strategy in _SHARDING:
        for strategy in _SHARDING[_SHARDING.index(failed.strategy) + 1 :]:
            yield {**same, **free, "strategy": str(strategy)}
    if wished.gpus is None:
        most = wished.max_gpus or max(wished.min_gpus or 1, DEFAULT_MOST_GPUS)
        for count in divisors(failed.global_batch_size):
            if failed.processes < count <= most:
                yield {**same, **free, "gpus": count}
    yield {}


def _situation(failed: RanOut) -> str:
    phase = f" in phase {failed.phase}" if failed.phase is not None else ""
    return (
        f"the plan before ran out of GPU memory{phase}: it needed {gib(failed.needed_bytes)} GiB or more of {gib(failed.capacity_bytes)}, and "
        f"{gib(failed.plan.memory.upper_bytes)} at most were expected"
    )


def _difference(before: Plan, after: Plan) -> str:
    fields = (
        ("gradient checkpointing", before.gradient_checkpointing, after.gradient_checkpointing),
        ("micro-batch", before.micro_batch_size, after.micro_batch_size),
        ("strategy", before.strategy, after.strategy),
        ("GPUs", before.gpus, after.gpus),
        ("GPU type", before.gpu_product, after.gpu_product),
    )
    return ", ".join(f"{name} {old} → {new}" for name, old, new in fields if old != new)


def _refused(last: RanOut, why: str) -> PlanError:
    return PlanError(reason=Reason.DOES_NOT_FIT, message=f"{_situation(last)}; {why}")
