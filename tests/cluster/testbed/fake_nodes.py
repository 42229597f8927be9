"""KWOK: nodes of 8 GPUs that exist in the API only, for tests of scheduling and scale. A thousand take 10 s to make."""

from __future__ import annotations

import json
from pathlib import Path

from testbed import tools
from testbed.control_plane import ControlPlane
from testbed.node import GPU_LABELS

STAGES = Path(__file__).resolve().parent.parent / "stages.yaml"
MARK = "kwok.x-k8s.io/node"
RESOURCES = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": "8", "ephemeral-storage": "10Ti"}
BATCH = 500


def add_fake_nodes(cluster: ControlPlane, count: int) -> None:
    """Start KWOK beside a running control plane and make the nodes; stages.yaml tells what their pods do."""
    cluster.processes.start(
        "8-kwok",
        tools.path("kwok"),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={STAGES}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={MARK}=fake",
        "--node-lease-duration-seconds=200",
    )
    names = [f"fake-{index:05d}" for index in range(count)]
    for start in range(0, count, BATCH):
        nodes = [fake_node(name) for name in names[start : start + BATCH]]
        items = {"apiVersion": "v1", "kind": "List", "items": nodes}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(items))


def fake_node(name: str) -> dict[str, object]:
    """A node of 8 H100 that KWOK keeps alive."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {MARK: "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, **GPU_LABELS},
        },
        "status": {"capacity": RESOURCES, "allocatable": RESOURCES},
    }
