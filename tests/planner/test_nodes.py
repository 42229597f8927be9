"""Node objects into the planner's inventory: equal nodes together, and what a job cannot use left out with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.pods import Pod, Toleration
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.gpu_labels import gpu_node_labels
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.nodes import Taint, node_inventory, offered, read_nodes
from finetune_operator.planner.plan import make_plan
from finetune_operator.testing import node

GIB = 2**30
H100 = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
}
GPU_ALLOCATABLE = {"cpu": "95500m", "memory": "512Gi", "nvidia.com/gpu": "8"}


def gpu_node(name: str = "gpu", labels: dict[str, str] | None = None) -> dict[str, Any]:
    return node(name, labels=H100 | (labels or {}), allocatable=GPU_ALLOCATABLE)


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


def pod(*, selector: dict[str, str] | None = None, **toleration: Any) -> Pod:
    tolerations = [Toleration(**toleration)] if toleration else []
    return Pod(node_selector=selector or {}, tolerations=tolerations)


def why_left_out(inventory: Inventory, accelerator: str = "gpu") -> list[str]:
    return [group.sentence for group in inventory.left_out if group.accelerator == accelerator]


@pytest.mark.parametrize("key", ["dedicated", "node-role.kubernetes.io/control-plane"])
@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_taint_keeps_jobs_away_that_do_not_tolerate_it(key: str, effect: str) -> None:
    nodes = [with_parts(gpu_node(), spec=tainted(key, effect))]
    closed, opened = node_inventory(nodes), node_inventory(nodes, pod(key=key, operator="Exists"))
    assert closed.gpu_nodes == closed.cpu_nodes == ()
    assert why_left_out(closed) == [
        f"1 node with NVIDIA-H100-80GB-HBM3 (gpu): taint {key}:{effect} is not in pod.tolerations"
    ]
    assert len(opened.gpu_nodes) == len(opened.cpu_nodes) == 1
    assert opened.left_out == ()


def test_a_taint_that_only_prefers_others_keeps_nobody_away() -> None:
    assert node_inventory([with_parts(gpu_node(), spec=tainted("dedicated", "PreferNoSchedule"))]).gpu_nodes


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "team", "value": "vision"}, True),
        ({"key": "team", "value": "speech"}, False),
        ({"key": "team", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "team", "value": "vision", "effect": "NoSchedule"}, True),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations_match_as_the_scheduler_matches_them(toleration: dict[str, Any], tolerated: bool) -> None:
    assert Taint("team", "vision", "NoSchedule").is_tolerated_by(Toleration(**toleration)) is tolerated


def test_no_toleration_opens_a_node_that_is_not_ready() -> None:
    down = with_parts(gpu_node(), spec=tainted("node.kubernetes.io/unreachable", "NoExecute"))
    assert node_inventory([down], pod(operator="Exists")).gpu_nodes == ()


def test_a_node_selector_leaves_the_other_nodes_out() -> None:
    nodes = [gpu_node("a", labels={"zone": "one"}), gpu_node("b", labels={"zone": "two"})]
    inventory = node_inventory(nodes, pod(selector={"zone": "one"}))
    assert [group.nodes for group in inventory.gpu_nodes] == [1]
    assert why_left_out(inventory) == ["1 node with NVIDIA-H100-80GB-HBM3 (b): pod.nodeSelector asks for zone: one"]


def test_cordoned_nodes_are_named_together() -> None:
    nodes = [{**gpu_node(f"gpu-{number}"), "spec": {"unschedulable": True}} for number in range(5)]
    assert why_left_out(node_inventory(nodes)) == [
        "5 nodes with NVIDIA-H100-80GB-HBM3 (gpu-0, gpu-1, gpu-2, …): cordoned (kubectl uncordon opens it again)"
    ]


@pytest.mark.parametrize(
    ("labels", "share"),
    [
        ({"nvidia.com/gpu.replicas": "4"}, 4),
        ({"nvidia.com/gpu.replicas": "2", "nvidia.com/gpu.sharing-strategy": "mps"}, 2),
        ({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED", "nvidia.com/gpu.count": "2"}, 4),
        ({"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.count": "8"}, 2),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/mig.strategy": "single"}, 1),
    ],
    ids=["replicas", "MPS", "shared product", "strategy without replicas", "MIG slices"],
)
def test_slices_of_gpus_are_shared_and_each_has_its_part_of_the_memory(labels: dict[str, str], share: int) -> None:
    (group,) = node_inventory([gpu_node(labels=labels)]).gpu_nodes
    assert group.shared
    assert group.memory_bytes == 81559 * 2**20 // share


def test_the_mig_strategy_of_a_node_without_mig_devices_does_not_make_its_gpus_shared() -> None:
    labels = {
        "nvidia.com/mig.strategy": "single",
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
    }
    assert not node_inventory([gpu_node(labels=labels)]).gpu_nodes[0].shared


def test_mixed_mig_devices_are_kinds_of_gpus_beside_the_whole_ones() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/mig.strategy": "mixed",
        "nvidia.com/mig-3g.40gb.memory": "40192",
    }
    allocatable = {
        "cpu": "96",
        "memory": "1Ti",
        "nvidia.com/gpu": "6",
        "nvidia.com/mig-3g.40gb": "2",
        "nvidia.com/mig-1g.10gb": "7",
    }
    groups = node_inventory([node("mixed", labels=labels, allocatable=allocatable)]).gpu_nodes
    by_resource = {group.resource: group for group in groups}
    assert {name: (group.product, group.gpus_per_node, group.shared) for name, group in by_resource.items()} == {
        "nvidia.com/gpu": ("NVIDIA-A100-SXM4-80GB", 6, False),
        "nvidia.com/mig-3g.40gb": ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 2, True),
        "nvidia.com/mig-1g.10gb": ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 7, True),
    }
    assert by_resource["nvidia.com/mig-3g.40gb"].memory_bytes == 40192 * 2**20
    assert by_resource["nvidia.com/mig-1g.10gb"].memory_bytes == pytest.approx(10 * GIB, rel=0.03)


def test_pods_find_mixed_mig_devices_by_the_name_that_the_node_bears() -> None:
    product = "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"
    whole = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    assert gpu_node_labels(product, "nvidia.com/mig-3g.40gb") == whole
    assert gpu_node_labels(product, "nvidia.com/gpu") == {"nvidia.com/gpu.product": product}


def test_a_plan_for_a_mixed_mig_device_asks_for_that_resource() -> None:
    labels = {**H100, "nvidia.com/mig-4g.40gb.memory": "40448"}
    allocatable = {"cpu": "96", "memory": "1Ti", "nvidia.com/mig-4g.40gb": "1"}
    plan = planned([node("mixed", labels=labels, allocatable=allocatable)], method="qlora")
    assert isinstance(plan, Plan), plan
    assert (plan.gpu_resource, plan.gpu_product) == ("nvidia.com/mig-4g.40gb", "NVIDIA-H100-80GB-HBM3-MIG-4g.40gb")


def test_memory_that_no_label_tells_is_the_catalogue_s() -> None:
    labels = {name: value for name, value in H100.items() if not name.endswith("memory")}
    (group,) = node_inventory([node("unlabelled", labels=labels, allocatable=GPU_ALLOCATABLE)]).gpu_nodes
    assert group.memory_bytes == 81559 * 2**20


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"nvidia.com/gpu.memory": "81559"}, "no label nvidia.com/gpu.product"),
        (
            {"nvidia.com/gpu.product": "NVIDIA-H900"},
            "no label nvidia.com/gpu.memory, and the catalogue lacks NVIDIA-H900",
        ),
    ],
)
def test_gpus_that_nobody_knows_are_left_out_and_the_plan_says_so(labels: dict[str, str], words: str) -> None:
    bodies = [node("odd", labels=labels, allocatable=GPU_ALLOCATABLE)]
    assert words in why_left_out(node_inventory(bodies))[0]
    error = planned(bodies)
    assert isinstance(error, PlanError)
    assert error.waits
    assert words in error.message
    plan = planned([*bodies, gpu_node()])
    assert isinstance(plan, Plan), plan
    assert any(words in reason for reason in plan.reasons)


def test_amd_gpus_are_left_out_because_pods_ask_for_nvidia_s() -> None:
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "192G"}
    allocatable = {"cpu": "96", "memory": "1Ti", "amd.com/gpu": "8"}
    inventory = node_inventory([node("amd", labels=labels, allocatable=allocatable)])
    assert inventory.gpu_nodes == ()
    assert "AMD GPUs" in why_left_out(inventory)[0]


def test_cpu_nodes_are_not_reported_as_lacking_gpus() -> None:
    assert node_inventory([node("plain")]).left_out == ()


def test_a_quantity_that_cannot_be_read_names_its_node() -> None:
    with pytest.raises(ValueError, match=r"node odd: status.allocatable: '8 cores' is not a Kubernetes quantity"):
        read_nodes([node("odd", allocatable={"cpu": "8 cores"})])


def planned(bodies: list[dict[str, Any]], **tuning: Any) -> Plan | PlanError:
    model = "meta-llama/Meta-Llama-3-8B"
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"hf://{model}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "tuning": tuning,
        }
    )
    return make_plan(spec, None, node_inventory(bodies), config=KNOWN_MODELS[model])


some_nodes = st.lists(
    st.builds(
        lambda name, zone, taint, cordoned: {
            **with_parts(
                gpu_node(name, labels={"zone": zone}), spec=tainted(taint) if taint else {"unschedulable": cordoned}
            )
        },
        st.integers(0, 999).map(str),
        st.sampled_from(("one", "two")),
        st.sampled_from(("", "team", "nvidia.com/gpu")),
        st.booleans(),
    ),
    max_size=12,
)


@given(some_nodes, st.sampled_from((None, "one")), st.booleans())
def test_every_gpu_node_is_offered_or_left_out_with_a_reason(
    bodies: list[dict[str, Any]], zone: str | None, tolerant: bool
) -> None:
    wanted = pod(selector={"zone": zone} if zone else {}, **({"operator": "Exists"} if tolerant else {}))
    inventory = offered(read_nodes(bodies), wanted)
    left_out = [group for group in inventory.left_out if group.accelerator == "gpu"]
    assert sum(group.nodes for group in (*inventory.gpu_nodes, *left_out)) == len(bodies)
    assert all(group.why for group in left_out)
    assert offered(read_nodes(reversed(bodies)), wanted) == inventory
