"""The search: every pool of nodes × every way to split the work, each with its memory and its time, and why it was ruled out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.history import Prediction
from finetune_operator.api.plan import GIB, MemoryEstimate, PodResources
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.workload import Workload, workload_of
from finetune_operator.planner.candidates import SIMPLICITY, Split, divisors, prefers_sharding, splits
from finetune_operator.planner.catalogue import gpu_of, processor
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.history import UNCORRECTED, Correction, corrected
from finetune_operator.planner.host import pod_resources
from finetune_operator.planner.inventory import GPU_RESOURCE, CpuNodes, GpuNodes
from finetune_operator.planner.limits import NO_LIMITS, needs_of, refusal, within_cpu_bounds
from finetune_operator.planner.task import Task
from finetune_operator.planner.throughput import CPU_TFLOPS, step_seconds

GPU_RESERVE: Final = 0.02
"""Share of a GPU's memory that plans leave free: the driver and other processes' contexts."""
NODE_RESERVE: Final = 0.05
"""Share of a node's allocatable memory that plans leave free: DaemonSets and small pods."""
TIE: Final = 0.03
"""Plans whose scores differ by less are equally good: the roofline does not know better."""
BF16_EMULATION: Final = 4.0
"""How much slower bfloat16 is on GPUs without it (T4, V100). Assumed."""


@dataclass(frozen=True)
class Pool:
    """Equal nodes that could run the job, on their GPUs or their CPUs."""

    product: str | None
    gpu: Gpu
    capacity_bytes: int
    """Of one GPU; on CPU nodes of one node."""
    per_node: int
    """Processes that a node takes at most."""
    nodes: int
    millicores: int
    host_bytes: int
    disk_bytes: int
    shared: bool = False
    resource: str = GPU_RESOURCE

    @property
    def usable_bytes(self) -> int:
        """GPU memory (on CPU nodes: node memory) that a plan may use."""
        reserve = NODE_RESERVE if self.product is None else GPU_RESERVE
        return round(self.capacity_bytes * (1 - reserve))


def gpu_pool(nodes: GpuNodes) -> Pool:
    """Return the pool of these GPU nodes."""
    return Pool(
        product=nodes.product,
        gpu=gpu_of(nodes.product),
        capacity_bytes=nodes.memory_bytes,
        per_node=nodes.gpus_per_node,
        nodes=nodes.nodes,
        millicores=nodes.cpu_millicores,
        host_bytes=nodes.host_memory_bytes,
        disk_bytes=nodes.ephemeral_storage_bytes,
        shared=nodes.shared,
        resource=nodes.resource,
    )


def cpu_pool(nodes: CpuNodes) -> Pool:
    """Return the pool of these CPU nodes; links and memory bandwidth are left out of their roofline."""
    return Pool(
        product=None,
        gpu=processor(nodes.memory_bytes, CPU_TFLOPS),
        capacity_bytes=nodes.memory_bytes,
        per_node=256,
        nodes=nodes.nodes,
        millicores=nodes.cpu_millicores,
        host_bytes=nodes.memory_bytes,
        disk_bytes=nodes.ephemeral_storage_bytes,
    )


@dataclass(frozen=True)
class Candidate:
    """One complete way to run the job; `obstacle` says why it cannot be, if so."""

    pool: Pool
    split: Split
    pods: int
    states: States
    memory: MemoryEstimate
    resources: PodResources
    seconds: float
    """Of one optimizer step."""
    obstacle: str = ""
    formula_bytes: int = 0
    """The expected peak before history corrected it."""
    memory_correction: Correction = UNCORRECTED
    speed_correction: Correction = UNCORRECTED
    is_refused: bool = False
    """The nodes would take it; the obstacle is a quota or the namespace's policy."""

    @property
    def per_pod(self) -> int:
        """Processes in one pod."""
        return self.split.processes // self.pods

    @property
    def cost(self) -> float:
        """GPU-seconds of one step, weighted by the type's relative price."""
        return self.seconds * self.split.processes * self.pool.gpu.price

    def score(self, objective: str) -> float:
        """What the plan's objective minimises."""
        return self.seconds if objective == "fastest" else self.cost

    def prediction(self, task: Task) -> Prediction:
        """Return what the formulas alone say of it."""
        tokens = task.spec.training.global_batch_size * task.sequence_length
        return Prediction(
            kind=task.kind(self.split, self.pool.product),
            expected_bytes=self.formula_bytes,
            tokens_per_second=round(tokens / (self.seconds * self.speed_correction.factor), 2),
        )

    @property
    def title(self) -> str:
        """What it is, in words."""
        count = self.split.processes
        where = (
            f"{count} × {self.pool.product}" if self.pool.product else f"{count} CPU process{'es' if count > 1 else ''}"
        )
        checkpointing = "checkpointing" if self.split.checkpointing is Checkpointing.FULL else "no checkpointing"
        return f"{where}, {self.split.strategy}, micro-batch {self.split.micro_batch}, {checkpointing}"


@dataclass
class _Estimates:
    """Memory does not depend on the GPU type: each split is estimated once."""

    task: Task
    known: dict[Split, tuple[Workload, States, MemoryEstimate]] = field(default_factory=dict)
    learned: dict[Split, Correction] = field(default_factory=dict)

    def correction(self, split: Split) -> Correction:
        if self.task.corrections.is_empty:
            return UNCORRECTED
        if split not in self.learned:
            self.learned[split] = self.task.corrections.memory(self.task.kind(split, None))
        return self.learned[split]

    def of(self, split: Split) -> tuple[Workload, States, MemoryEstimate]:
        if split not in self.known:
            workload = workload_of(
                self.task.spec,
                sequence_length=self.task.sequence_length,
                micro_batch=split.micro_batch,
                accumulation=split.accumulation,
                strategy=split.strategy,
                processes=split.processes,
                checkpointing=split.checkpointing,
            )
            architecture = self.task.architecture
            self.known[split] = (workload, states_of(architecture, workload), estimate(architecture, workload))
        return self.known[split]


def search(task: Task, pools: tuple[Pool, ...], counts: tuple[int, ...]) -> list[Candidate]:
    """Return every candidate on `pools` with one of the process `counts`, the impossible ones with their obstacle."""
    estimates = _Estimates(task)
    found = []
    for count in counts:
        layouts = [(pool, pods) for pool in pools for pods in _pod_counts(task.spec, pool, count)]
        if not layouts:
            continue
        for split in splits(task.spec, count, task.sequence_length):
            found += [_candidate(task, pool, pods, split, estimates) for pool, pods in layouts]
    return found


def _pod_counts(spec: FineTuneJobSpec, pool: Pool, processes: int) -> Iterator[int]:
    """Yield the numbers of pods that the pool can hold: on GPU nodes the smallest, on CPU nodes all, from the smallest on."""
    if pool.shared and processes > 1:
        return
    wanted = [spec.resources.pods] if spec.resources.pods is not None else divisors(processes)
    for pods in wanted:
        if processes % pods or processes // pods > pool.per_node:
            continue
        if pool.nodes * (pool.per_node // (processes // pods)) < pods:
            continue
        yield pods
        if pool.product is not None:
            return


def _candidate(task: Task, pool: Pool, pods: int, split: Split, estimates: _Estimates) -> Candidate:
    workload, states, formula = estimates.of(split)
    learned = estimates.correction(split)
    memory = corrected(formula, learned)
    per_pod = split.processes // pods
    pods_on_node = -(-pods // pool.nodes) if pool.product is None else 1
    resources = pod_resources(
        task.architecture,
        workload,
        states,
        memory,
        processes_per_pod=per_pod,
        weight_bytes=task.weight_bytes,
        node_millicores=pool.millicores,
        node_disk_bytes=pool.disk_bytes,
        processes_per_node=pods_on_node * per_pod if pool.product is None else max(per_pod, pool.per_node),
    )
    seconds = step_seconds(task.architecture, workload, pool.gpu, per_pod)
    if pool.product is not None and not pool.gpu.has_bf16 and task.spec.training.precision == "bf16":
        seconds *= BF16_EMULATION
    obstacle, refused = _obstacle(pool, memory, resources, pods_on_node), ""
    if task.limits is not NO_LIMITS:
        resources = within_cpu_bounds(task.limits, resources, pods, split.processes, pool.product)
        needs = needs_of(resources, pods, pool.resource)
        refused = "" if obstacle else refusal(task.limits, needs, pool.product, resources.gpus * pods)
    speed = UNCORRECTED
    if not task.corrections.is_empty:
        speed = task.corrections.throughput(task.kind(split, pool.product))
    return Candidate(
        pool,
        split,
        pods,
        states,
        memory,
        resources,
        seconds / speed.factor,
        obstacle or refused,
        formula.expected_bytes,
        learned,
        speed,
        bool(refused),
    )


def _obstacle(pool: Pool, memory: MemoryEstimate, resources: PodResources, pods_on_node: int) -> str:
    if pool.product is not None and memory.upper_bytes > pool.usable_bytes:
        return f"GPU memory: needs up to {gib(memory.upper_bytes)} of {gib(pool.usable_bytes)} GiB usable"
    host = round(pool.host_bytes * (1 - NODE_RESERVE))
    if resources.memory_bytes * pods_on_node > host:
        return f"node memory: needs {gib(resources.memory_bytes * pods_on_node)} of {gib(host)} GiB usable"
    if resources.ephemeral_storage_bytes * pods_on_node > pool.disk_bytes:
        return (
            f"local disk: needs {gib(resources.ephemeral_storage_bytes * pods_on_node)} of {gib(pool.disk_bytes)} GiB "
            "for the model and two checkpoints"
        )
    return ""


def choose(task: Task, candidates: list[Candidate]) -> Candidate | None:
    """Return the best candidate without obstacle: the lowest score, and among equally good ones the simplest."""
    possible = [candidate for candidate in candidates if not candidate.obstacle]
    if not possible:
        return None
    objective = task.spec.resources.objective_of_plan
    limit = min(candidate.score(objective) for candidate in possible) * (1 + TIE)
    order = strategy_order(task.spec)
    return min(
        (candidate for candidate in possible if candidate.score(objective) <= limit),
        key=lambda c: (
            order.index(c.split.strategy),
            c.split.processes,
            c.pods,
            c.split.checkpointing is Checkpointing.FULL,
            c.memory.upper_bytes,
            c.score(objective),
            c.pool.product or "",
            c.split.micro_batch,
        ),
    )


def strategy_order(spec: FineTuneJobSpec) -> tuple[Strategy, ...]:
    """Return the strategies from the preferred one on, for plans that are equally good."""
    if prefers_sharding(spec.tuning.method, spec.resources.accelerator):
        return (Strategy.SINGLE, Strategy.FSDP, Strategy.ZERO2, Strategy.DDP)
    return SIMPLICITY


def gib(size: int) -> str:
    """Return bytes as GiB with one decimal, below one with two."""
    value = size / GIB
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
