"""What a training pod asks of its node beside GPUs: CPU, memory, /dev/shm and local disk."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB, MemoryEstimate, PodResources
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.runtime import MIB
from finetune_operator.memory.states import States, base_weight_bytes
from finetune_operator.memory.workload import Quantization, Workload

LAUNCHER_BYTES: Final = 512 * MIB
"""torchrun's agent imports torch too (about 0.35 GiB), and the launcher keeps the last log lines."""
CUDA_PROCESS_BYTES: Final = 4 * GIB
"""Host memory of one GPU process without its model: libraries, CUDA, tokenised rows, data workers. Assumed, not measured here."""
SHARED_MEMORY_PER_GPU: Final = GIB
"""NCCL and data workers; the container default of 64 MiB makes them fail."""
SHARED_MEMORY_PER_CPU_PROCESS: Final = 64 * MIB
DISK_BASE_BYTES: Final = 2 * GIB
"""Logs, caches, and what tokenizers and compilers write."""
GPU_CPU_MILLICORES: Final = 6000
CPU_MILLICORES_MOST: Final = 8000
CPU_MILLICORES_LEAST: Final = 100


def checkpoint_bytes(workload: Workload, states: States) -> int:
    """Return the bytes of one checkpoint of the whole job: trained weights and two moments (adapters: without the frozen base).

    ZeRO-2 writes the weights twice more in the compute type, as the model's file and in DeepSpeed's own (measured: 16 bytes per parameter, 20
    with fp32, and 12 with the other strategies).
    """
    again = 2 * workload.numerics.compute if workload.strategy is Strategy.ZERO2 else 0
    return (3 * workload.numerics.trained + again) * states.trainable


def exported_bytes(workload: Workload, states: States) -> int:
    """Return what the last checkpoint has more than the others: FSDP2 exports the trained weights whole beside the shards."""
    return workload.numerics.trained * states.trainable if workload.strategy is Strategy.FSDP else 0


def pod_resources(
    architecture: Architecture,
    workload: Workload,
    states: States,
    memory: MemoryEstimate,
    *,
    processes_per_pod: int,
    weight_bytes: int,
    node_millicores: int,
    node_disk_bytes: int,
    processes_per_node: int,
) -> PodResources:
    """Return what one pod asks for.

    Memory on GPU nodes: every process loads the whole model on the host before it goes to the GPU or is sharded (the trainer does not use
    cpu_ram_efficient_loading), and its share of a checkpoint is staged in memory. On CPU nodes the estimate is the memory.
    Disk: the model as downloaded, the checkpoint that was resumed from and the one that is staged; nothing where the nodes do not say what they
    have, since no pod would be scheduled.
    """
    is_gpu = workload.accelerator == "gpu"
    shared = processes_per_pod * (SHARED_MEMORY_PER_GPU if is_gpu else SHARED_MEMORY_PER_CPU_PROCESS)
    checkpoint = checkpoint_bytes(workload, states)
    staged = -(-checkpoint * processes_per_pod // workload.processes) if workload.shards > 1 else checkpoint
    disk = weight_bytes + 2 * (checkpoint + exported_bytes(workload, states)) + DISK_BASE_BYTES
    if is_gpu:
        per_process = CUDA_PROCESS_BYTES + _host_load(architecture, workload)
        cpu = min(
            GPU_CPU_MILLICORES * processes_per_pod, node_millicores * processes_per_pod * 9 // (10 * processes_per_node)
        )
    else:
        per_process = memory.upper_bytes
        # Half of the node: the operator, object store and monitoring of small clusters live there as well.
        per_core = min(CPU_MILLICORES_MOST, node_millicores // (2 * processes_per_node))
        cpu = processes_per_pod * max(CPU_MILLICORES_LEAST, per_core - per_core % 50)
    return PodResources(
        cpu_millicores=max(CPU_MILLICORES_LEAST, cpu - cpu % 50),
        memory_bytes=_round_up(processes_per_pod * per_process + staged + shared + LAUNCHER_BYTES),
        shared_memory_bytes=shared,
        ephemeral_storage_bytes=_round_up(disk) if node_disk_bytes else 0,
        gpus=processes_per_pod if is_gpu else 0,
    )


def _host_load(architecture: Architecture, workload: Workload) -> int:
    """Host bytes of the model while it is loaded: quantised models go to the GPU tensor by tensor, all others are whole on the host first."""
    if workload.quantization is not Quantization.NONE and workload.strategy is not Strategy.FSDP:
        return 2 * architecture.largest_tensor * workload.numerics.base
    if workload.trains_base:
        return architecture.parameters * workload.numerics.trained
    return base_weight_bytes(architecture, workload)


def _round_up(size: int) -> int:
    """Whole MiB: Kubernetes shows them as such."""
    return -(-size // MIB) * MIB
