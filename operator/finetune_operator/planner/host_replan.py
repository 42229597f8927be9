"""The next plan after a pod ran out of host memory: the same work on the same GPUs, and half as much memory again for every pod.

Host memory is what a plan knows least of (libraries, data workers, page tables), and unlike a GPU's it can be had: nodes mostly have more than
the pods ask for. So nothing of the training changes, and it resumes from its newest checkpoint. It ends after three such plans, and where no node
has a tenth more: what takes that much is a leak, or belongs on larger nodes.
"""

from __future__ import annotations

from typing import Final

from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.runtime import MIB
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import MEMORY, NO_LIMITS, Limits
from finetune_operator.planner.pools import NODE_RESERVE, gib

MOST_HOST_REPLANS: Final = 3
GROWTH: Final = 1.5
LEAST_GROWTH: Final = 1.1
"""Where the nodes have less than half as much again, so much more is still worth another attempt."""

_ADVICE: Final = (
    "add nodes with more memory, spread the ranks over more pods (resources.pods), or lower what a process holds (training.maxLength, "
    "resources.microBatchSize)"
)


def with_more_host_memory(plan: Plan, inventory: Inventory, limits: Limits = NO_LIMITS) -> Plan | PlanError:
    """Return the plan with more memory for every pod.

    Args:
        plan: Of the attempt in which a pod was killed for memory.
        inventory: What the cluster has now.
        limits: What the job's namespace may take.

    Returns:
        The plan with `resources.memory_bytes` × 1.5 where nodes and quotas have it, else with as much as they have, at least × 1.1. A PlanError after
        three such plans or where there is not so much; one that waits where nodes are missing now or a quota is too small.
    """
    asked, number = plan.resources.memory_bytes, plan.host_replans + 1
    situation = f"a pod used up the {gib(asked)} GiB host memory that it had asked for"
    if number > MOST_HOST_REPLANS:
        why = f"it is the plan of replan {MOST_HOST_REPLANS} of {MOST_HOST_REPLANS} for host memory"
        return PlanError(reason=Reason.DOES_NOT_FIT, message=f"{situation}; {why}; {_ADVICE}")
    least, wanted = round(LEAST_GROWTH * asked), round(GROWTH * asked)
    room = largest_request(plan, inventory)
    if room < asked:
        why = "no ready nodes hold even such pods now"
        return PlanError(reason=Reason.NO_CAPACITY, message=f"{situation}; {why}; add nodes", waits=True)
    if room < least:
        why = f"the nodes have room for pods of {gib(room)} GiB at most"
        return PlanError(reason=Reason.DOES_NOT_FIT, message=f"{situation}; {why}; {_ADVICE}")
    for bound in limits.bounds:
        if bound.resource == MEMORY and bound.is_about(plan.gpu_product):
            share = bound.hard // plan.pods
            if share < least:
                why = f"{bound.source} allows {gib(bound.hard)} GiB memory for {plan.pods} pods; ask for more"
                return PlanError(reason=Reason.QUOTA_EXCEEDED, message=f"{situation}; {why}", waits=True)
            room = min(room, share)
    granted = min(wanted, room) // MIB * MIB
    why = f"replan {number} of {MOST_HOST_REPLANS} for host memory: {situation}; every pod asks for {gib(granted)} GiB now"
    resources = plan.resources.model_copy(update={"memory_bytes": granted})
    learned = {"resources": resources, "host_replans": number, "reasons": (why, *plan.reasons)}
    return plan.model_copy(update=learned)


def keeping_host_memory(plan: Plan, before: Plan) -> Plan:
    """Return a plan that asks per process for no less host memory than the one before, which had been given more than the formulas say."""
    if not before.host_replans:
        return plan
    least = before.resources.memory_bytes * plan.processes_per_pod // before.processes_per_pod
    memory = max(plan.resources.memory_bytes, -(-least // MIB) * MIB)
    resources = plan.resources.model_copy(update={"memory_bytes": memory})
    return plan.model_copy(update={"resources": resources, "host_replans": before.host_replans})


def largest_request(plan: Plan, inventory: Inventory) -> int:
    """Return the most memory, in bytes, that every pod of a plan can ask for so that all of them find a place; 0 where they find none."""
    if plan.accelerator == "gpu":
        nodes = [
            (group.nodes, _usable(group.host_memory_bytes), group.gpus_per_node // plan.processes_per_pod)
            for group in inventory.gpu_nodes
            if (group.product, group.resource) == (plan.gpu_product, plan.gpu_resource)
        ]
    else:
        nodes = [(group.nodes, _usable(group.memory_bytes), plan.pods) for group in inventory.cpu_nodes]
    sizes = {usable // share for _, usable, slots in nodes for share in range(1, min(slots, plan.pods) + 1)}
    for size in sorted(sizes, reverse=True):
        if size and sum(count * min(usable // size, slots) for count, usable, slots in nodes) >= plan.pods:
            return size
    return 0


def _usable(memory_bytes: int) -> int:
    return round(memory_bytes * (1 - NODE_RESERVE))
