"""Node objects into the planner's inventory: exact quantities, equal nodes together, unusable nodes left out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.controller.inventory import InventoryReader, node_inventory, parse_quantity
from finetune_operator.controller.kube import Unavailable
from finetune_operator.testing import FakeApi, FakeClock, node, timed_out

GIB = 2**30
H100 = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
}
GPU_ALLOCATABLE = {"cpu": "95500m", "memory": "512Gi", "nvidia.com/gpu": "8"}


def gpu_node(name: str = "gpu", labels: dict[str, str] | None = None) -> dict[str, Any]:
    return node(name, labels=H100 | (labels or {}), allocatable=GPU_ALLOCATABLE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("250m", Fraction(1, 4)),
        ("1.5", Fraction(3, 2)),
        (".5Gi", Fraction(GIB, 2)),
        ("5.", Fraction(5)),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("2Ki", Fraction(2048)),
        ("263582532Ki", Fraction(263582532 * 1024)),
        ("64Mi", Fraction(64 * 2**20)),
        ("16Gi", Fraction(16 * GIB)),
        ("2k", Fraction(2000)),
        ("128974848M", Fraction(128974848 * 10**6)),
        ("12G", Fraction(12 * 10**9)),
        ("1E", Fraction(10**18)),
        ("1E3", Fraction(1000)),
        ("12e6", Fraction(12_000_000)),
        ("5e-1", Fraction(1, 2)),
    ],
)
def test_quantities_are_read_exactly(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1gi", "1 Gi", "-1", "1e999", "one", "١Gi", "1.2.3"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a Kubernetes quantity; write a number with a suffix such as 500m"):
        parse_quantity(text)


@given(st.integers(min_value=0, max_value=2**70))
def test_every_way_to_write_a_number_of_bytes_means_the_same(kibibytes: int) -> None:
    same = {
        parse_quantity(f"{kibibytes}Ki"),
        parse_quantity(str(kibibytes * 1024)),
        parse_quantity(f"{kibibytes * 1024}e0"),
    }
    assert same == {Fraction(kibibytes * 1024)}
    assert parse_quantity(f"{kibibytes * 1024 * 1000}m") == kibibytes * 1024


def test_equal_gpu_nodes_are_one_group() -> None:
    inventory = node_inventory([gpu_node("a"), gpu_node("b")])
    (group,) = inventory.gpu_nodes
    assert (group.product, group.nodes, group.gpus_per_node) == ("NVIDIA-H100-80GB-HBM3", 2, 8)
    assert group.memory_bytes == 81559 * 2**20
    assert (group.cpu_millicores, group.host_memory_bytes) == (95500, 512 * GIB)
    assert not group.shared


def test_nodes_of_another_size_are_another_group_and_the_largest_group_comes_first() -> None:
    small = node("c", allocatable={"cpu": "4", "memory": "8Gi", "ephemeral-storage": "90Gi"})
    inventory = node_inventory([small, node("a"), node("b")])
    assert [(group.nodes, group.cpu_millicores) for group in inventory.cpu_nodes] == [(2, 8000), (1, 4000)]
    assert inventory.cpu_nodes[1].ephemeral_storage_bytes == 90 * GIB


def test_a_gpu_node_counts_as_a_cpu_machine_too() -> None:
    assert node_inventory([gpu_node()]).cpu_nodes[0].cpu_millicores == 95500


def with_parts(body: dict[str, Any], *, spec: dict[str, Any] | None = None, ready: str | None = None) -> dict[str, Any]:
    conditions = [] if ready is None else [{"type": "Ready", "status": ready}]
    return {**body, "spec": spec or {}, "status": {**body["status"], "conditions": conditions}}


def tainted(key: str, effect: str = "NoSchedule") -> dict[str, Any]:
    return {"taints": [{"key": key, "effect": effect}]}


@pytest.mark.parametrize(
    "unusable",
    [
        node("cordoned", unschedulable=True),
        with_parts(node("down"), ready="False"),
        with_parts(node("silent"), ready="Unknown"),
        with_parts(node("unreachable"), spec=tainted("node.kubernetes.io/unreachable", "NoExecute")),
        with_parts(node("master"), spec=tainted("node-role.kubernetes.io/control-plane")),
    ],
    ids=lambda body: str(body["metadata"]["name"]),
)
def test_a_node_that_takes_no_pods_is_left_out(unusable: dict[str, Any]) -> None:
    inventory = node_inventory([unusable])
    assert inventory.cpu_nodes == ()
    assert inventory.gpu_nodes == ()


def test_a_ready_node_counts() -> None:
    assert node_inventory([with_parts(node("up"), ready="True")]).cpu_nodes[0].nodes == 1


def test_a_node_that_is_tainted_for_gpu_jobs_is_no_cpu_machine() -> None:
    inventory = node_inventory([with_parts(gpu_node(), spec=tainted("nvidia.com/gpu"))])
    assert len(inventory.gpu_nodes) == 1
    assert inventory.cpu_nodes == ()


def test_a_team_s_own_taint_does_not_hide_its_gpus_because_jobs_can_tolerate_it() -> None:
    assert len(node_inventory([with_parts(gpu_node(), spec=tainted("dedicated"))]).gpu_nodes) == 1


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.replicas": "4"},
        {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-SHARED"},
        {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/mig.strategy": "single"},
    ],
    ids=["time-slices", "shared product", "MIG slices"],
)
def test_slices_of_gpus_are_marked_as_shared(labels: dict[str, str]) -> None:
    assert node_inventory([gpu_node(labels=labels)]).gpu_nodes[0].shared


def test_the_mig_strategy_of_a_node_without_mig_devices_does_not_make_its_gpus_shared() -> None:
    labels = {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.replicas": "1"}
    assert not node_inventory([gpu_node(labels=labels)]).gpu_nodes[0].shared


@pytest.mark.parametrize("unknown", ["nvidia.com/gpu.product", "nvidia.com/gpu.memory"])
def test_a_gpu_node_whose_product_or_memory_nobody_knows_is_left_out(unknown: str) -> None:
    labels = {name: value for name, value in H100.items() if name != unknown}
    assert node_inventory([node("unlabelled", labels=labels, allocatable=GPU_ALLOCATABLE)]).gpu_nodes == ()


def test_amd_gpus_are_left_out_because_pods_ask_for_nvidia_s() -> None:
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "192G"}
    allocatable = {"cpu": "96", "memory": "1Ti", "amd.com/gpu": "8"}
    assert node_inventory([node("amd", labels=labels, allocatable=allocatable)]).gpu_nodes == ()


async def test_the_inventory_is_listed_once_a_minute() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("a"))
    reader = InventoryReader(api, clock)
    await reader.read()
    api.seed(node("b"))
    assert (await reader.read()).cpu_nodes[0].nodes == 1
    await clock.advance(60)
    assert (await reader.read()).cpu_nodes[0].nodes == 2
    assert len(api.calls) == 2


async def test_a_failed_listing_is_an_error_and_the_next_read_asks_again() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(node("a"))
    reader = InventoryReader(api, clock)
    api.fail("list", timed_out())
    with pytest.raises(Unavailable):
        await reader.read()
    assert (await reader.read()).cpu_nodes[0].nodes == 1
