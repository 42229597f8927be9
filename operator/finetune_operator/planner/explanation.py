"""The plan in words: why this one, what else would have done, what was binding; and why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from finetune_operator.api.compatibility import Offload
from finetune_operator.api.durations import format_duration
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.states import states_of
from finetune_operator.planner.candidate import Candidate, Rejected
from finetune_operator.planner.catalogue import UNKNOWN
from finetune_operator.planner.estimates import Known
from finetune_operator.planner.history import UNCORRECTED
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, needs_of, waits_for
from finetune_operator.planner.pools import Pool, gib
from finetune_operator.planner.remedies import remedies, smaller_count
from finetune_operator.planner.roofline.rates import LOCAL_DISK
from finetune_operator.planner.search import Outcome
from finetune_operator.planner.task import Task

GROUPS_SHOWN: Final = 3


def reasons_of(task: Task, chosen: Candidate, outcome: Outcome, pools: tuple[Pool, ...]) -> tuple[str, ...]:
    """Return why `chosen` was taken: itself, up to three alternatives, what was binding, and what to know of its hardware."""
    objective = task.spec.resources.objective_of_plan
    sentences = [f"chosen, {objective} of what fits: {chosen.title} ({_figures(chosen)})"]
    sentences += [f"would also fit: {other.title} ({_figures(other)})" for other in outcome.alternatives]
    sentences.append(_binding(outcome.nearest))
    sentences += _remarks(task, chosen, pools)
    return tuple(sentences)


def _figures(candidate: Candidate) -> str:
    memory = f"{gib(candidate.peak.expected_bytes)} GiB expected, {gib(candidate.peak.upper_bytes)} at most"
    if candidate.pool.product is None:
        return f"{memory} per process"
    return f"{memory} per GPU, about {_seconds(candidate.seconds)} per step"


def _seconds(seconds: float) -> str:
    """Two digits; a minute and a half is not one minute, so minutes begin at ten."""
    return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:.0f} s" if seconds < 600 else format_duration(seconds)


def _binding(nearest: Rejected | None) -> str:
    if nearest is None:
        return "binding: nothing; no clearly better plan was ruled out"
    return f"binding: {nearest.obstacle} for {nearest.title}"


def _staging(chosen: Candidate) -> str:
    """Where a checkpoint waits for its upload, and what that takes."""
    staged = chosen.resources.staging_bytes
    if staged:
        return f"checkpoints: up to {gib(staged)} GiB of a pod's memory hold one while it is uploaded"
    return (
        "checkpoints: on local disk while they are uploaded, since memory lacks for them; training waits for the disk"
    )


def _swapping(task: Task, chosen: Candidate) -> Iterator[str]:
    """What local disks have to hold and to do."""
    if chosen.split.offload is not Offload.NVME:
        return
    states = states_of(task.architecture, chosen.sized.workload)
    yield (
        f"offload nvme: {gib(states.disk * chosen.per_pod)} GiB of each pod's local disk hold optimizer states, read and written in every step; its "
        f"seconds assume {LOCAL_DISK:g} GB/s for the processes of a node"
    )
    if not chosen.pool.has_disk:
        yield "offload nvme: these nodes do not say how much local disk they have; the trainer looks before it loads the model"


def _lessons(chosen: Candidate) -> Iterator[str]:
    """What history changed of the formulas' numbers."""
    for what, correction in (("memory", chosen.sized.correction), ("tokens/s", chosen.speed_correction)):
        if correction != UNCORRECTED:
            runs = f"{correction.runs} finished job{'s' if correction.runs > 1 else ''} of this kind"
            yield f"history: expected {what} × {correction.factor:.3f}, learned from {runs if correction.runs else 'similar jobs'}"


def _remarks(task: Task, chosen: Candidate, pools: tuple[Pool, ...]) -> list[str]:
    remarks = [_staging(chosen), *_swapping(task, chosen), *_lessons(chosen)]
    if task.limits is not NO_LIMITS:
        needs = needs_of(chosen.resources, chosen.pods, chosen.pool.resource)
        remarks += waits_for(task.limits, needs, chosen.pool.product)
    shared = sorted({pool.product or "" for pool in pools if pool.shared})
    if shared and chosen.split.processes > 1:
        remarks.append(f"left out for several GPUs: {', '.join(shared)}, {_SHARED}")
    if chosen.pool.product is not None and chosen.pool.gpu is UNKNOWN:
        remarks.append(
            f"the catalogue lacks {chosen.pool.product}: its speed is guessed; name types in resources.gpuProduct to choose yourself"
        )
    if (
        chosen.pool.product is not None
        and not task.prices.is_empty
        and task.prices.per_hour(chosen.pool.product) is None
    ):
        remarks.append(
            f"prices: the table lacks {chosen.pool.product}; it was compared by the catalogue's relative price, and no money is shown"
        )
    if chosen.pool.product is not None and not chosen.pool.gpu.has_bf16 and task.spec.training.precision == "bf16":
        remarks.append(
            f"{chosen.pool.product} has no bfloat16 arithmetic: training.precision: bf16 is emulated there, slowly"
        )
    cache = task.spec.model.cache
    if cache is not None and cache.persistent_volume_claim is not None and chosen.pods > 1:
        remarks.append(
            f"model.cache: {chosen.pods} pods mount claim {cache.persistent_volume_claim}; on several nodes it needs access mode ReadWriteMany, "
            "with ReadWriteOnce they wait for one another's node"
        )
    positions = task.architecture.max_positions
    if 0 < positions < task.spec.training.max_length:
        remarks.append(
            f"training.maxLength: {task.spec.training.max_length} is more than the {positions} positions that the model was made for"
        )
    return remarks


_SHARED = (
    "shared (MIG or time-slicing): slices reach each other through no NVLink and NCCL refuses two ranks on one GPU"
)


def no_capacity(spec: FineTuneJobSpec, pools: tuple[Pool, ...], counts: tuple[int, ...]) -> PlanError:
    """Return that nodes are missing; time can help."""
    resources = spec.resources
    shared = sorted({pool.product or "" for pool in pools if pool.shared})
    whole = [pool for pool in pools if not pool.shared]
    if resources.accelerator == "cpu":
        pods = f" that take {resources.pods} pods" if resources.pods is not None else ""
        message = f"there are no ready CPU nodes{pods}; add nodes, or wait until some are ready"
    elif resources.gpu_product and not any(pool.product in resources.gpu_product for pool in pools):
        there = ", ".join(sorted({pool.product or "" for pool in pools}))
        message = f"resources.gpuProduct: no ready node has {' or '.join(resources.gpu_product)}; " + (
            f"there are {there}: name one of them, or remove gpuProduct"
            if there
            else "there are no GPU nodes at all: add some"
        )
    elif shared and not whole:
        message = (
            f"all {' and '.join(shared)} are {_SHARED}, so they train on one GPU only; "
            "set resources.gpus: 1, or add nodes with whole GPUs"
        )
    elif whole:
        there = ", ".join(f"{pool.nodes} × {pool.per_node} {pool.product}" for pool in whole)
        wanted = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        pods = f" in {resources.pods} pods" if resources.pods is not None else ""
        message = f"no kind of node offers {wanted} GPUs{pods}; there are (nodes × GPUs) {there}: lower resources.gpus or minGPUs, or add nodes"
        if shared:
            message += f"; {', '.join(shared)} do not count, they are {_SHARED}"
    else:
        message = "there are no ready GPU nodes; add some, or set resources.accelerator: cpu for a small model"
    return PlanError(reason=Reason.NO_CAPACITY, message=message, waits=True)


def does_not_fit(
    task: Task,
    nearest: Rejected,
    pools: tuple[Pool, ...],
    all_pools: tuple[Pool, ...],
    counts: tuple[int, ...],
    known: Known,
) -> PlanError:
    """Return that no candidate fits, how near the nearest came, and the smallest change that would help."""
    model = f"{task.architecture.model_type} with {task.architecture.parameters / 1e9:.3g} billion parameters"
    situation = f"{task.spec.tuning.method} training of this {model} does not fit; the nearest is {nearest.title}: {nearest.obstacle}"
    help_text = remedies(task, pools, all_pools, counts, known)
    if not help_text:
        help_text = "nothing here would help: add larger nodes, or use a smaller model or a shorter training.maxLength"
    return PlanError(reason=Reason.DOES_NOT_FIT, message=f"{situation}; {help_text}")


def over_limits(task: Task, best: Rejected, pools: tuple[Pool, ...], known: Known) -> PlanError:
    """Return that quotas or the namespace's policy allow no plan that the nodes would take; others can change them, so time can help."""
    advice = smaller_count(task, pools, known)
    message = f"the best plan for the nodes is {best.title}, but {best.obstacle}; ask for more"
    return PlanError(
        reason=Reason.QUOTA_EXCEEDED, message=message + (f", or set {advice}" if advice else ""), waits=True
    )


def not_used(spec: FineTuneJobSpec, inventory: Inventory) -> tuple[str, ...]:
    """Return which nodes of the wanted kind the job cannot use, and why; the largest groups first."""
    wanted = spec.resources.gpu_product
    groups = [
        group
        for group in inventory.left_out
        if group.accelerator == spec.resources.accelerator
        and (not wanted or not group.product or group.product in wanted)
    ]
    groups.sort(key=lambda group: (-group.nodes, group.product, group.why))
    more = sum(group.nodes for group in groups[GROUPS_SHOWN:])
    rest = (f"not used either: {more} more nodes, for other reasons",) if more else ()
    return tuple(f"not used: {group.sentence}" for group in groups[:GROUPS_SHOWN]) + rest


def with_unused(error: PlanError, unused: tuple[str, ...]) -> PlanError:
    """Return the error with the nodes that are there and cannot be used: often they are what is missed. Time can open them."""
    if not unused:
        return error
    return error.model_copy(update={"message": f"{error.message}; {'; '.join(unused)}"})
