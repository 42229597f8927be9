"""Nodes as the search sees them: one pool per kind, whose hosts may differ in memory and disk. A thousand nodes of six GPU types are six pools."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from finetune_operator.api.plan import GIB, PodResources
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.catalogue import gpu_of, processor
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.inventory import GPU_RESOURCE, CpuNodes, GpuNodes, Inventory
from finetune_operator.planner.throughput import CPU_TFLOPS

GPU_RESERVE: Final = 0.02
"""Share of a GPU's memory that plans leave free: the driver and other processes' contexts."""
NODE_RESERVE: Final = 0.05
"""Share of a node's allocatable memory that plans leave free: DaemonSets and small pods."""
MOST_CPU_PROCESSES_PER_NODE: Final = 256
_GRAIN: Final = GIB // 4
"""Nodes of one kind report slightly different sizes; they are rounded down to this, so that a kind stays one group."""


@dataclass(frozen=True)
class Hosts:
    """Equal nodes of a pool."""

    nodes: int
    memory_bytes: int
    disk_bytes: int

    @cached_property
    def usable_bytes(self) -> int:
        """Host memory that a plan may use."""
        return round(self.memory_bytes * (1 - NODE_RESERVE))


@dataclass(frozen=True)
class Pool:
    """Nodes that could run the job, on GPUs of one type or on their CPUs."""

    product: str | None
    gpu: Gpu
    capacity_bytes: int
    """Of one GPU; on CPU nodes of the largest node."""
    per_node: int
    """Processes that a node takes at most."""
    nodes: int
    millicores: int
    hosts: tuple[Hosts, ...]
    """The largest memory first."""
    shared: bool = False
    resource: str = GPU_RESOURCE
    """What pods ask for."""
    kept_free_bytes: int = 0
    """Of each GPU, beyond the reserve: what an earlier attempt lacked."""

    @cached_property
    def usable_bytes(self) -> int:
        """GPU memory (on CPU nodes: node memory) that a plan may use."""
        reserve = NODE_RESERVE if self.product is None else GPU_RESERVE
        return round(self.capacity_bytes * (1 - reserve)) - self.kept_free_bytes

    @property
    def has_disk(self) -> bool:
        """Whether its nodes say how much local disk they have."""
        return self.hosts[0].disk_bytes > 0


@dataclass(frozen=True)
class Placement:
    """What each pod asks for, and why there are not enough nodes that have it, if so."""

    resources: PodResources
    obstacle: str = ""


def pools_of(
    spec: FineTuneJobSpec, inventory: Inventory, kept_free_bytes: int
) -> tuple[tuple[Pool, ...], tuple[Pool, ...]]:
    """Return the pools that the spec allows, and all of that kind, in a fixed order; arguments as `plan.question_of`'s."""
    if spec.resources.accelerator == "cpu":
        found = cpu_pools(inventory.cpu_nodes)
        return found, found
    everything = gpu_pools(inventory.gpu_nodes, kept_free_bytes)
    wanted = spec.resources.gpu_product
    return tuple(pool for pool in everything if not wanted or pool.product in wanted), everything


def gpu_pools(groups: Iterable[GpuNodes], kept_free_bytes: int = 0) -> tuple[Pool, ...]:
    """Return the pools of these GPU nodes in a fixed order; nodes without GPUs are left out, and GPUs too small for what is kept free."""
    kinds: dict[tuple[str, int, int, bool, str, int, bool], Counter[tuple[int, int]]] = defaultdict(Counter)
    for group in groups:
        if group.nodes > 0 and group.gpus_per_node > 0 and group.memory_bytes > 2 * kept_free_bytes:
            has_disk = group.ephemeral_storage_bytes > 0
            what = (group.product, group.memory_bytes, group.gpus_per_node, group.shared, group.resource)
            kind = (*what, group.cpu_millicores, has_disk)
            kinds[kind][group.host_memory_bytes, group.ephemeral_storage_bytes] += group.nodes
    return tuple(
        Pool(
            product,
            gpu_of(product),
            memory,
            per_node,
            sum(sizes.values()),
            millicores,
            _hosts(sizes),
            shared,
            resource,
            kept_free_bytes,
        )
        for (product, memory, per_node, shared, resource, millicores, _), sizes in sorted(kinds.items())
    )


def cpu_pools(groups: Iterable[CpuNodes]) -> tuple[Pool, ...]:
    """Return the pools of these nodes, seen as CPU machines, in a fixed order; links and memory bandwidth are left out of their roofline."""
    kinds: dict[tuple[int, bool], Counter[tuple[int, int]]] = defaultdict(Counter)
    for group in groups:
        if group.nodes > 0:
            kind = (group.cpu_millicores, group.ephemeral_storage_bytes > 0)
            kinds[kind][group.memory_bytes, group.ephemeral_storage_bytes] += group.nodes
    pools = []
    for (millicores, _), sizes in sorted(kinds.items()):
        hosts = _hosts(sizes)
        largest = hosts[0].memory_bytes
        gpu = processor(largest, CPU_TFLOPS)
        pools.append(Pool(None, gpu, largest, MOST_CPU_PROCESSES_PER_NODE, sum(sizes.values()), millicores, hosts))
    return tuple(pools)


def _hosts(sizes: Counter[tuple[int, int]]) -> tuple[Hosts, ...]:
    merged: Counter[tuple[int, int]] = Counter()
    for (memory, disk), nodes in sizes.items():
        merged[_rounded(memory), _rounded(disk)] += nodes
    return tuple(Hosts(merged[size], *size) for size in sorted(merged, reverse=True))


def _rounded(size: int) -> int:
    return size - size % _GRAIN if size >= _GRAIN else size


def place(pool: Pool, pods: int, per_pod: int, resources_of: Callable[[int], PodResources]) -> Placement:
    """Return whether the pool's hosts hold so many pods, as few on a node as can be.

    Args:
        pool: The nodes.
        pods: How many pods.
        per_pod: Processes in each.
        resources_of: What a pod asks for when so many processes share its node.
    """
    fewest = -(-pods // pool.nodes)
    first: Placement | None = None
    for on_node in range(fewest, max(pool.per_node // per_pod, fewest) + 1):
        resources = resources_of(on_node * per_pod)
        obstacle = _obstacle(pool, pods, on_node, resources)
        first = first or Placement(resources, obstacle)
        if not obstacle:
            return Placement(resources)
        if on_node >= pods or resources.memory_bytes * (on_node + 1) > pool.hosts[0].usable_bytes:
            break
    return first or Placement(resources_of(per_pod))


def _obstacle(pool: Pool, pods: int, on_node: int, resources: PodResources) -> str:
    memory, disk = resources.memory_bytes * on_node, resources.ephemeral_storage_bytes * on_node
    needed = -(-pods // on_node)
    roomy = [hosts for hosts in pool.hosts if memory <= hosts.usable_bytes]
    if sum(hosts.nodes for hosts in roomy) < needed:
        return _lacking("node memory", memory, pool.hosts[0].usable_bytes, needed, sum(h.nodes for h in roomy))
    fitting = sum(hosts.nodes for hosts in roomy if disk <= hosts.disk_bytes)
    if fitting < needed:
        largest = max(hosts.disk_bytes for hosts in roomy)
        return f"{_lacking('local disk', disk, largest, needed, fitting)} for the model and two checkpoints"
    return ""


def _lacking(what: str, size: int, largest: int, needed: int, fitting: int) -> str:
    if not fitting:
        return f"{what}: needs {gib(size)} of {gib(largest)} GiB usable"
    return f"{what}: needs {gib(size)} GiB on {needed} nodes, and {fitting} have it"


def gib(size: int) -> str:
    """Return bytes as GiB with one decimal, below one with two."""
    value = size / GIB
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
