"""From Node objects to what they offer one job: which GPUs and CPUs its pods could run on, and which nodes are left out and why.

A node says what it has (allocatable), what its GPUs are (labels of NVIDIA's GPU feature discovery), and whom it repels (taints). What is in use right
now is the scheduler's business. Reading nodes and choosing among them are two steps: a thousand nodes are read once, for all jobs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.api.pods import Pod, Toleration
from finetune_operator.planner.gpu_labels import gpus_of
from finetune_operator.planner.inventory import GPU_RESOURCE, CpuNodes, GpuNodes, Inventory, LeftOut
from finetune_operator.planner.quantities import parse_quantity

GPU_TOLERATION: Final = Toleration(key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
"""Every GPU pod of ours has it: GPU nodes are commonly tainted to keep others away."""

NAMES_SHOWN: Final = 3
_CONDITION_TAINTS: Final = "node.kubernetes.io/"
_REPELLING: Final = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True)
class Taint:
    """A taint that keeps pods away which do not tolerate it."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"

    def is_tolerated_by(self, toleration: Toleration) -> bool:
        """Whether one toleration matches, as the scheduler sees it: an absent effect or (with Exists) key matches all."""
        if toleration.effect not in (None, self.effect):
            return False
        if toleration.operator == "Exists":
            return toleration.key in (None, "", self.key)
        return toleration.key == self.key and (toleration.value or "") == self.value


@dataclass(frozen=True)
class NodeFacts:
    """One node, reduced to what planning asks."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    closed: str
    """Why it takes no pods of anybody; empty when it does."""
    cpus: CpuNodes
    gpus: tuple[GpuNodes, ...]
    gpu_problem: str
    """Why its GPUs cannot be used; empty when they can, or there are none."""

    @property
    def gpu_product(self) -> str:
        """Its GPU types, for people; empty on nodes without GPUs."""
        return " and ".join(sorted({gpu.product for gpu in self.gpus}))


def read_nodes(nodes: Iterable[Mapping[str, Any]]) -> tuple[NodeFacts, ...]:
    """Return what Node objects say of themselves.

    Raises:
        ValueError: a quantity of a node cannot be read; the text names the node.
    """
    return tuple(_read(node) for node in nodes)


def offered(nodes: Sequence[NodeFacts], pod: Pod | None = None) -> Inventory:
    """Return what the nodes offer a job whose pods are like `pod`: equal nodes together, the largest group first.

    Left out are nodes that are not ready or cordoned, whose labels do not match `pod.nodeSelector`, or that have a taint (NoSchedule, NoExecute)
    which neither `pod.tolerations` nor, on GPU nodes, our own toleration of nvidia.com/gpu tolerates; and GPUs that no plan can be made for.
    """
    pod = pod or Pod()
    tolerations = tuple(pod.tolerations)
    gpu_nodes: Counter[GpuNodes] = Counter()
    cpu_nodes: Counter[CpuNodes] = Counter()
    left_out: dict[tuple[str, str, str], list[str]] = {}
    for node in nodes:
        obstacle = _obstacle(node, pod.node_selector, tolerations)
        if not obstacle:
            cpu_nodes[node.cpus] += 1
        else:
            left_out.setdefault(("cpu", "", obstacle), []).append(node.name)
        if not node.gpus and not node.gpu_problem:
            continue
        obstacle = node.gpu_problem or _obstacle(node, pod.node_selector, (*tolerations, GPU_TOLERATION))
        if obstacle:
            left_out.setdefault(("gpu", node.gpu_product, obstacle), []).append(node.name)
        else:
            gpu_nodes.update(node.gpus)
    return Inventory(
        gpu_nodes=tuple(_largest_first(gpu.model_copy(update={"nodes": count}) for gpu, count in gpu_nodes.items())),
        cpu_nodes=tuple(_largest_first(cpu.model_copy(update={"nodes": count}) for cpu, count in cpu_nodes.items())),
        left_out=tuple(_left_out(*group, names) for group, names in sorted(left_out.items())),
    )


def node_inventory(nodes: Iterable[Mapping[str, Any]], pod: Pod | None = None) -> Inventory:
    """Return what these Node objects offer, see `offered`."""
    return offered(read_nodes(nodes), pod)


def _read(node: Mapping[str, Any]) -> NodeFacts:
    metadata, spec, status = node.get("metadata") or {}, node.get("spec") or {}, node.get("status") or {}
    # The same few dozen names and values stand on every node.
    labels = {sys.intern(name): sys.intern(value) for name, value in (metadata.get("labels") or {}).items()}
    name = str(metadata.get("name", ""))
    taints = tuple(
        Taint(str(taint.get("key", "")), str(taint.get("value") or ""), str(taint["effect"]))
        for taint in spec.get("taints") or ()
        if taint.get("effect") in _REPELLING
    )
    try:
        amounts = {name: parse_quantity(str(text)) for name, text in (status.get("allocatable") or {}).items()}
    except ValueError as error:
        raise ValueError(f"node {name}: status.allocatable: {error}") from error
    cpus = CpuNodes(
        nodes=1,
        cpu_millicores=int(amounts.get("cpu", 0) * 1000),
        memory_bytes=int(amounts.get("memory", 0)),
        ephemeral_storage_bytes=int(amounts.get("ephemeral-storage", 0)),
    )
    gpus, problem = gpus_of(labels, {name: int(amount) for name, amount in amounts.items()}, cpus)
    return NodeFacts(
        name=name,
        labels=labels,
        taints=tuple(taint for taint in taints if not taint.key.startswith(_CONDITION_TAINTS)),
        closed=_closed(spec, status, taints),
        cpus=cpus,
        gpus=gpus,
        gpu_problem=problem,
    )


def _closed(spec: Mapping[str, Any], status: Mapping[str, Any], taints: tuple[Taint, ...]) -> str:
    if spec.get("unschedulable"):
        return "cordoned (kubectl uncordon opens it again)"
    ready = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), None)
    if ready is not None and ready.get("status") != "True":
        return "not ready"
    # A node that has not reported yet has no condition but the taint node.kubernetes.io/not-ready.
    condition = next((taint for taint in taints if taint.key.startswith(_CONDITION_TAINTS)), None)
    return f"not usable now: {condition.key.removeprefix(_CONDITION_TAINTS)}" if condition else ""


def _obstacle(node: NodeFacts, selector: Mapping[str, str], tolerations: tuple[Toleration, ...]) -> str:
    if node.closed:
        return node.closed
    missing = [f"{key}: {value}" for key, value in sorted(selector.items()) if node.labels.get(key) != value]
    if missing:
        return f"pod.nodeSelector asks for {', '.join(missing)}"
    for taint in node.taints:
        if not any(taint.is_tolerated_by(toleration) for toleration in tolerations):
            return f"taint {taint} is not in pod.tolerations"
    return ""


def _left_out(accelerator: str, product: str, why: str, names: list[str]) -> LeftOut:
    return LeftOut(
        accelerator="gpu" if accelerator == "gpu" else "cpu",
        product=product,
        nodes=len(names),
        names=tuple(sorted(names)[:NAMES_SHOWN]),
        why=why,
    )


def _largest_first(groups: Iterable[Any]) -> list[Any]:
    return sorted(groups, key=lambda group: (-group.nodes, group.to_json_dict().get("product", ""), repr(group)))
