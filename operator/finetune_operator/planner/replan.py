"""The next plan after a GPU ran out of memory: less memory by at least what was missing, the same global batch, and an end after three tries.

The formulas were wrong for this job by what was measured less what they said at most; that much is kept free on every GPU from then on. What
changes is as little as helps, in the order of its price: compute activations again, smaller micro-batches, more sharding, more GPUs, other
GPUs. The global batch stays, and with it the loss curve; what the user has set stays too. Of other strategies those come first that go on from the
checkpoints that are there (`resume_obstacle`); with the others the job starts afresh. Offload to host memory is what the last step falls back on.

What was learned travels in the plan itself (`replans`, `keptFreeBytes`), so that neither status nor old attempts are needed for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydantic import JsonValue

from finetune_operator.api.compatibility import Checkpointing, Strategy, resume_obstacle
from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import Phase, Plan, PlanError
from finetune_operator.api.prices import NO_PRICES, Prices
from finetune_operator.api.progress import MemoryShortage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.candidates import DEFAULT_MOST_GPUS, divisors
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, Limits
from finetune_operator.planner.plan import make_plan, question_of
from finetune_operator.planner.pools import GPU_RESERVE, gib

MOST_REPLANS: Final = 3
LEAST_REDUCTION: Final = 0.05
"""Of a GPU's memory, times the number of the replan: the allocation that failed is only the first of those that would have been missing."""

_SHARDING: Final = (Strategy.DDP, Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3, Strategy.FSDP)
"""From whole copies on; a strategy later in the row needs less memory."""


@dataclass(frozen=True)
class RanOut:
    """A plan whose GPU had too little memory, and what was measured then."""

    plan: Plan
    shortage: MemoryShortage | None = None
    """None when the process could not say."""

    @property
    def phase(self) -> Phase | None:
        """Where in the step it was, if that is known."""
        return self.shortage.phase if self.shortage else None

    @property
    def capacity_bytes(self) -> int:
        """Memory of one GPU."""
        return self.plan.gpu_memory_bytes or 0

    @property
    def needed_bytes(self) -> int:
        """What was needed at least: more than there was, whatever the measurement says."""
        told = self.shortage.held_bytes + self.shortage.requested_bytes if self.shortage else 0
        return max(told, self.capacity_bytes)

    @property
    def number(self) -> int:
        """Which out-of-memory of the job this is, from 1."""
        return self.plan.replans + 1

    @property
    def kept_free_bytes(self) -> int:
        """What the next plan leaves unused on every GPU beyond the usual reserve: the most that any attempt of the job has missed."""
        # By the bound that plans keep to, whatever the phase: the reserve of 2 % was part of what did not suffice.
        missed = max(0, self.needed_bytes - self.plan.memory.upper_bytes)
        return max(self.plan.kept_free_bytes, missed + round(LEAST_REDUCTION * self.number * self.capacity_bytes))

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


def next_plan(
    spec: FineTuneJobSpec,
    inspection: InspectionReport | None,
    inventory: Inventory,
    *,
    failure: RanOut | None = None,
    history: History = EMPTY_HISTORY,
    limits: Limits = NO_LIMITS,
    prices: Prices = NO_PRICES,
) -> Plan | PlanError:
    """Return a job's plan: the first one, or after a `failure` one that takes less."""
    if failure is None:
        return make_plan(spec, inspection, inventory, history=history, limits=limits, prices=prices)
    return replan(spec, inspection, inventory, failure, history=history, limits=limits, prices=prices)


def replan(
    spec: FineTuneJobSpec,
    inspection: InspectionReport | None,
    inventory: Inventory,
    failure: RanOut,
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
        failure: The newest attempt, whose GPU ran out of memory.
        history: As the first plan's.
        limits: As the first plan's.
        prices: As the first plan's.
        config: As the first plan's.
        rows: As the first plan's.

    Returns:
        A plan with the same global batch that leaves free on every GPU what the formulas have missed: on the same GPU type its `upper` lies below
        the failed plan's by at least the shortfall. A PlanError after three replans, or where nothing smaller is possible or allowed; another one
        where the job could not be planned at all now (nodes are missing, a quota).
    """
    last = failure
    if last.plan.accelerator != "gpu":
        return _refused(
            last,
            "the job has no GPU; a pod that ran out of host memory needs larger nodes or more pods: resources.pods",
        )
    if last.number > MOST_REPLANS:
        return _refused(last, f"it is the plan of replan {MOST_REPLANS} of {MOST_REPLANS}; {_ADVICE}")
    ask = partial(
        question_of,
        inspection=inspection,
        inventory=inventory,
        history=history,
        limits=limits,
        prices=prices,
        config=config,
        rows=rows,
    )
    if isinstance(now := ask(spec), PlanError):
        return now
    for resources in _steps(spec, last.plan):
        changed = spec.model_copy(update={"resources": spec.resources.model_copy(update=resources)})
        question = ask(changed, kept_free_bytes=last.kept_free_bytes)
        plan = None if isinstance(question, PlanError) else question.plan(question.search({}))
        if plan is not None and _has_room(plan, last):
            why = f"replan {last.number} of {MOST_REPLANS}: {_situation(last)}; changed: {_difference(last.plan, plan)}"
            learned = {"replans": last.number, "kept_free_bytes": last.kept_free_bytes}
            return plan.model_copy(update={**learned, "reasons": (why, *plan.reasons)})
    return _refused(
        last, f"no plan with the same global batch leaves {gib(last.kept_free_bytes)} GiB more free; {_ADVICE}"
    )


_ADVICE: Final = (
    "allow more or larger GPUs (resources.maxGPUs, resources.gpuProduct), remove overrides under resources, lower training.maxLength, or use a "
    "smaller tuning.method; then delete the job and create it anew"
)


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
        "offload": str(failed.offload),
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
        for strategy in sorted(_SHARDING[_SHARDING.index(failed.strategy) + 1 :], key=partial(_starts_afresh, failed)):
            yield {**same, **free, "strategy": str(strategy)}
    if wished.gpus is None:
        most = wished.max_gpus or max(wished.min_gpus or 1, DEFAULT_MOST_GPUS)
        for count in divisors(failed.global_batch_size):
            if failed.processes < count <= most:
                yield {**same, **free, "gpus": count}
    yield {}


def _starts_afresh(failed: Plan, strategy: Strategy) -> bool:
    return resume_obstacle(failed.strategy, failed.processes, strategy, failed.processes) is not None


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
        ("offload", before.offload, after.offload),
        ("GPUs", before.gpus, after.gpus),
        ("GPU type", before.gpu_product, after.gpu_product),
    )
    return ", ".join(f"{name} {old} → {new}" for name, old, new in fields if old != new)


def _refused(last: RanOut, why: str) -> PlanError:
    return PlanError(reason=Reason.DOES_NOT_FIT, message=f"{_situation(last)}; {why}")
