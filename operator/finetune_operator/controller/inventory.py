"""From Node objects to the inventory that the planner reads: which GPUs and CPUs could run a job.

Only what a node says about itself counts; what is in use right now is the scheduler's business. Quantities are read
exactly (no floats): a node that is one byte too small must not look big enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import NODES, Api, Body
from finetune_operator.planner.inventory import CpuNodes, GpuNodes, Inventory

INVENTORY_AGE_SECONDS: Final = 60.0

NVIDIA_GPU: Final = "nvidia.com/gpu"
AMD_GPU: Final = "amd.com/gpu"
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
_CONTROL_PLANE_TAINT: Final = "node-role.kubernetes.io/control-plane"
_CONDITION_TAINTS: Final = "node.kubernetes.io/"
_REPELLING: Final = frozenset({"NoSchedule", "NoExecute"})
_MEBIBYTE: Final = 1024**2

_QUANTITY: Final = re.compile(
    r"^(?P<number>\d+\.?\d*|\.\d+)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,2})?$", re.ASCII
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}


def parse_quantity(text: str) -> Fraction:
    """Return the exact value of a Kubernetes quantity such as `250m`, `16Gi`, `1.5G` or `12e6`.

    Raises:
        ValueError: `text` is not a quantity of zero or more.
    """
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a Kubernetes quantity; write a number with a suffix such as 500m, 16Gi or 2G"
        )
    number, suffix = Fraction(match["number"].rstrip(".")), match["suffix"] or ""
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    return number * Fraction(10) ** exponent


def node_inventory(nodes: Iterable[Body]) -> Inventory:
    """Return what these Node objects offer, equal nodes together, the largest group first.

    Left out: nodes that are not ready, cordoned, unreachable or reserved for the control plane; GPU nodes whose product
    and memory no label tells (install NVIDIA's GPU feature discovery), since pods select their nodes by the product; and
    AMD's GPUs, which the trainer image has no libraries for: pods ask for nvidia.com/gpu. Taints that only a node's owner understands do not
    count here: `pod.tolerations` may tolerate them, and the scheduler says so where they do not.
    """
    gpu_nodes: Counter[GpuNodes] = Counter()
    cpu_nodes: Counter[CpuNodes] = Counter()
    for node in nodes:
        if not _takes_pods(node):
            continue
        gpus = _gpus(node)
        if gpus is not None:
            gpu_nodes[gpus] += 1
        if not _repels_cpu_jobs(node):
            cpu_nodes[_cpus(node)] += 1
    return Inventory(
        gpu_nodes=tuple(_largest_first(gpu.model_copy(update={"nodes": count}) for gpu, count in gpu_nodes.items())),
        cpu_nodes=tuple(_largest_first(cpu.model_copy(update={"nodes": count}) for cpu, count in cpu_nodes.items())),
    )


class InventoryReader:
    """The cluster's inventory, read at most once a minute: a hundred jobs that are planned at once cost one list call."""

    def __init__(self, api: Api, clock: Clock, *, maximum_age_seconds: float = INVENTORY_AGE_SECONDS) -> None:
        self._api = api
        self._clock = clock
        self._maximum_age = maximum_age_seconds
        self._inventory = Inventory()
        self._read_at: float | None = None

    async def read(self) -> Inventory:
        """Return the inventory, at most `maximum_age_seconds` old; a failed list call raises its ApiError."""
        if self._read_at is None or self._clock.monotonic() - self._read_at >= self._maximum_age:
            asked_at = self._clock.monotonic()
            self._inventory = node_inventory((await self._api.list(NODES)).items)
            self._read_at = asked_at
        return self._inventory


def _takes_pods(node: Body) -> bool:
    spec = node.get("spec") or {}
    ready = next((c for c in _conditions(node) if c.get("type") == "Ready"), None)
    # A node that has not reported yet has no condition but the taint node.kubernetes.io/not-ready.
    if spec.get("unschedulable") or (ready is not None and ready.get("status") != "True"):
        return False
    return not any(key.startswith(_CONDITION_TAINTS) or key == _CONTROL_PLANE_TAINT for key in _taints(node))


def _repels_cpu_jobs(node: Body) -> bool:
    return any(key in (NVIDIA_GPU, AMD_GPU) for key in _taints(node))


def _conditions(node: Body) -> Iterable[Mapping[str, Any]]:
    return (node.get("status") or {}).get("conditions") or ()


def _taints(node: Body) -> list[str]:
    taints = (node.get("spec") or {}).get("taints") or ()
    return [str(taint.get("key", "")) for taint in taints if taint.get("effect") in _REPELLING]


def _allocatable(node: Body, resource: str, unit: int = 1) -> int:
    """Return how much of a resource pods can have, in units of 1/`unit`, rounded down; 0 when the node has none."""
    quantities = (node.get("status") or {}).get("allocatable") or {}
    return int(parse_quantity(str(quantities.get(resource, "0"))) * unit)


def _cpus(node: Body) -> CpuNodes:
    return CpuNodes(
        nodes=1,
        cpu_millicores=_allocatable(node, "cpu", 1000),
        memory_bytes=_allocatable(node, "memory"),
        ephemeral_storage_bytes=_allocatable(node, "ephemeral-storage"),
    )


def _gpus(node: Body) -> GpuNodes | None:
    labels = (node.get("metadata") or {}).get("labels") or {}
    count, memory = _allocatable(node, NVIDIA_GPU), _nvidia_memory(labels)
    if not count or not memory or PRODUCT_LABEL not in labels:
        return None
    return GpuNodes(
        product=_nvidia_product(labels),
        memory_bytes=memory,
        gpus_per_node=count,
        nodes=1,
        cpu_millicores=_allocatable(node, "cpu", 1000),
        host_memory_bytes=_allocatable(node, "memory"),
        ephemeral_storage_bytes=_allocatable(node, "ephemeral-storage"),
        shared=_is_shared(labels),
    )


def _nvidia_product(labels: Mapping[str, str]) -> str:
    return labels.get(PRODUCT_LABEL, "")


def _nvidia_memory(labels: Mapping[str, str]) -> int:
    text = labels.get("nvidia.com/gpu.memory", "")
    return int(text) * _MEBIBYTE if text.isdecimal() else 0


def _is_shared(labels: Mapping[str, str]) -> bool:
    """Whether nvidia.com/gpu counts slices or time shares instead of whole GPUs.

    The label mig.strategy alone does not tell: the GPU operator sets it to `single` on nodes without any MIG device too;
    feature discovery then leaves `-MIG-` out of the product. With `mixed`, slices are resources of other names.
    """
    product = _nvidia_product(labels)
    replicas = labels.get("nvidia.com/gpu.replicas", "1")
    return "-MIG-" in product or product.endswith("-SHARED") or (replicas.isdecimal() and int(replicas) > 1)


def _largest_first(groups: Iterable[Any]) -> list[Any]:
    return sorted(groups, key=lambda group: (-group.nodes, group.to_json_dict().get("product", ""), repr(group)))
