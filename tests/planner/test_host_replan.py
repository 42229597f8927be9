"""After a pod ran out of host memory: more of it for every pod, as far as nodes and quotas have it, and an end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.jobs.testing import make_plan
from finetune_operator.planner.host_replan import (
    LEAST_GROWTH,
    MOST_HOST_REPLANS,
    keeping_host_memory,
    largest_request,
    with_more_host_memory,
)
from finetune_operator.planner.inventory import CpuNodes, GpuNodes, Inventory
from finetune_operator.planner.limits import MEMORY, Bound, Limits
from finetune_operator.planner.pools import NODE_RESERVE


def cpu_nodes(*gibibytes: int) -> Inventory:
    return Inventory(cpu_nodes=tuple(CpuNodes(nodes=1, cpu_millicores=8000, memory_bytes=g * GIB) for g in gibibytes))


def memory(plan: Plan | PlanError) -> int:
    assert isinstance(plan, Plan), plan
    return plan.resources.memory_bytes


def test_every_pod_gets_half_as_much_again_and_nothing_else_changes() -> None:
    before = make_plan(pods=2)
    after = with_more_host_memory(before, cpu_nodes(64))
    assert memory(after) == 12 * GIB
    assert isinstance(after, Plan)
    assert after.host_replans == 1
    assert after.reasons[0] == (
        "replan 1 of 3 for host memory: a pod used up the 8.0 GiB host memory that it had asked for; every pod asks for 12.0 GiB now"
    )
    same = {"resources": before.resources, "host_replans": 0, "reasons": before.reasons}
    assert after.model_copy(update=same) == before


def test_it_takes_what_the_nodes_have_where_that_is_less_and_still_worth_it() -> None:
    assert 9 * GIB < memory(with_more_host_memory(make_plan(), cpu_nodes(10))) <= round(10 * GIB * (1 - NODE_RESERVE))
    refused = with_more_host_memory(make_plan(), cpu_nodes(9))
    assert isinstance(refused, PlanError)
    assert (refused.reason, refused.waits) == ("DoesNotFit", False)
    assert "the nodes have room for pods of 8.5 GiB at most" in refused.message


def test_where_the_nodes_are_gone_it_waits_for_them() -> None:
    waiting = with_more_host_memory(make_plan(), Inventory())
    assert isinstance(waiting, PlanError)
    assert (waiting.reason, waiting.waits) == ("NoCapacity", True)


def test_a_quota_bounds_it_and_can_be_raised() -> None:
    quota = Limits(bounds=(Bound(source="ResourceQuota memory", resource=MEMORY, hard=20 * GIB),))
    assert memory(with_more_host_memory(make_plan(pods=2), cpu_nodes(64), quota)) == 10 * GIB
    tight = Limits(bounds=(Bound(source="ResourceQuota memory", resource=MEMORY, hard=16 * GIB),))
    waiting = with_more_host_memory(make_plan(pods=2), cpu_nodes(64), tight)
    assert isinstance(waiting, PlanError)
    assert (waiting.reason, waiting.waits) == ("QuotaExceeded", True)
    assert "ResourceQuota memory allows 16.0 GiB memory for 2 pods" in waiting.message


def test_it_ends_after_as_many_plans_as_the_policy_says() -> None:
    plan: Plan | PlanError = make_plan()
    for _ in range(MOST_HOST_REPLANS):
        assert isinstance(plan, Plan)
        plan = with_more_host_memory(plan, cpu_nodes(512))
    assert memory(plan) == 27 * GIB
    assert isinstance(plan, Plan)
    refused = with_more_host_memory(plan, cpu_nodes(512))
    assert isinstance(refused, PlanError)
    assert not refused.waits
    assert "replan 3 of 3" in refused.message


def test_a_plan_after_a_gpu_ran_out_keeps_what_pods_have_been_given() -> None:
    before = with_more_host_memory(make_plan(accelerator="gpu", processes=2), gpu_nodes(64))
    assert isinstance(before, Plan)
    wider = make_plan(accelerator="gpu", processes=4)
    assert memory(keeping_host_memory(wider, before)) == 24 * GIB
    assert keeping_host_memory(wider, make_plan()) == wider


def gpu_nodes(*gibibytes: int) -> Inventory:
    product = "NVIDIA-H100-80GB-HBM3"
    return Inventory(
        gpu_nodes=tuple(
            GpuNodes(
                product=product,
                memory_bytes=80 * GIB,
                gpus_per_node=4,
                nodes=1,
                cpu_millicores=64000,
                host_memory_bytes=g * GIB,
            )
            for g in gibibytes
        )
    )


@given(
    pods=st.integers(1, 6),
    per_pod=st.sampled_from([1, 2, 4]),
    sizes=st.lists(st.integers(4, 96), max_size=4),
    gpu=st.booleans(),
)
def test_what_is_asked_for_always_finds_a_place_on_the_nodes(
    pods: int, per_pod: int, sizes: list[int], gpu: bool
) -> None:
    plan = make_plan(pods=pods, processes=pods * per_pod, accelerator="gpu" if gpu else "cpu")
    inventory = gpu_nodes(*sizes) if gpu else cpu_nodes(*sizes)
    after = with_more_host_memory(plan, inventory)
    if isinstance(after, PlanError):
        assert largest_request(plan, inventory) < LEAST_GROWTH * plan.resources.memory_bytes
        return
    free = sorted(round(size * GIB * (1 - NODE_RESERVE)) for size in sizes)
    slots = 4 // per_pod if gpu else pods
    assert sum(min(room // memory(after), slots) for room in free) >= pods
    assert after.resources.memory_bytes >= LEAST_GROWTH * plan.resources.memory_bytes - 2**20
