"""What a training pod asks of its node beside GPUs: CPU, memory, /dev/shm and local disk."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import SHARDED_STRATEGIES, Offload, Strategy
from finetune_operator.api.plan import GIB, PodResources
from finetune_operator.api.swapping import SWAPPED_BYTES
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.runtime import MIB
from finetune_operator.memory.states import States, host_load_bytes
from finetune_operator.memory.workload import Workload

LAUNCHER_BYTES: Final = 512 * MIB
"""torchrun's agent imports torch too (about 0.35 GiB), and the launcher keeps the last log lines."""
CUDA_PROCESS_BYTES: Final = 4 * GIB
"""Host memory of one GPU process without its model: libraries, CUDA, tokenised rows, data workers. Assumed, not measured here."""
SHARED_MEMORY_PER_GPU: Final = GIB
"""NCCL and data workers; the container default of 64 MiB makes them fail."""
SHARED_MEMORY_PER_CPU_PROCESS: Final = 64 * MIB
UPLOAD_BYTES: Final = 2 * 5 * 32 * MIB
"""What a process that uploads holds at most beside the checkpoint: two files at once, of each four parts on their way and one that fills."""
DISK_BASE_BYTES: Final = 2 * GIB
"""Logs, caches, and what tokenizers and compilers write."""
GPU_CPU_MILLICORES: Final = 6000
CPU_MILLICORES_MOST: Final = 8000
CPU_MILLICORES_LEAST: Final = 100


def checkpoint_bytes(architecture: Architecture, workload: Workload, states: States) -> int:
    """Return the bytes of one checkpoint of the whole job: trained weights and two moments.

    Adapters are saved without the frozen base; where some of the model's own weights are trained, the others are in each checkpoint too. ZeRO-1 and
    ZeRO-2 write the weights once more in the compute type (measured: 14 bytes per parameter, 16 with fp32, and 12 with the other strategies).
    """
    again = workload.numerics.compute if workload.strategy in (Strategy.ZERO1, Strategy.ZERO2) else 0
    return (3 * workload.numerics.trained + again) * states.trainable + _frozen_bytes(architecture, workload, states)


def exported_bytes(architecture: Architecture, workload: Workload, states: States) -> int:
    """Return what the last checkpoint has more than the others: the weights, exported whole beside the shards."""
    if workload.strategy not in SHARDED_STRATEGIES:
        return 0
    return workload.numerics.trained * states.trainable + _frozen_bytes(architecture, workload, states)


def _frozen_bytes(architecture: Architecture, workload: Workload, states: States) -> int:
    if not workload.trains_base:
        return 0
    return workload.numerics.base * max(0, architecture.parameters - states.trainable)


def staging_bytes(architecture: Architecture, workload: Workload, states: States, processes_per_pod: int) -> int:
    """Return the host memory that a pod's ranks need at most for a checkpoint on its way.

    Each rank copies what it writes (trainer_image/finetune_trainer/capture.py): its shard, or without sharding the first rank everything. Of the
    job's pods, which are equal, the first needs most.
    """
    checkpoint = checkpoint_bytes(architecture, workload, states)
    writers = processes_per_pod if workload.shards > 1 else 1
    share = -(-checkpoint * processes_per_pod // workload.processes) if workload.shards > 1 else checkpoint
    uploads = min(writers * UPLOAD_BYTES, share)
    if workload.offload is Offload.NVME:
        # What is on disk is copied there, and sent from there.
        share = max(0, share - SWAPPED_BYTES * states.trainable * processes_per_pod // workload.processes)
    return share + uploads


def pod_resources(
    architecture: Architecture,
    workload: Workload,
    states: States,
    upper_bytes: int,
    *,
    processes_per_pod: int,
    weight_bytes: int,
    encoded_bytes: int = 0,
    node_millicores: int,
    asks_for_disk: bool,
    processes_per_node: int,
    stages_in_memory: bool = True,
    evaluation_bytes: int = 0,
) -> PodResources:
    """Return what one pod asks for.

    Args:
        architecture: The model.
        workload: One process's share of a step.
        states: What a process keeps.
        upper_bytes: Of one process; on CPU nodes it is what the pod's processes take.
        processes_per_pod: Ranks in the pod.
        weight_bytes: The model as it is downloaded; 0 where a cache (model.cache) holds it.
        encoded_bytes: The rows as numbers, which every pod has on its disk.
        node_millicores: CPU of one node.
        asks_for_disk: False where nodes do not say what they have: no pod that asks would be scheduled there.
        processes_per_node: Ranks that share the node's CPUs.
        stages_in_memory: Whether a checkpoint on its way is kept in memory, else on local disk.
        evaluation_bytes: Of the process that evaluates after the training, when all this is free again; on GPU nodes without its libraries.

    On GPU nodes memory holds the model while it is loaded (once in a pod or once per process, see `host_load_bytes`), later what is offloaded and the
    export that rank 0 gathers of a sharded model. Everywhere it holds what its ranks stage: their shares of a checkpoint, and parts of files on their
    way. Disk holds the model (unless a cache does), the encoded rows, the checkpoint that was resumed from and one more, whether it is staged there
    or not, and with offload nvme the states of the pod's processes.
    """
    is_gpu = workload.accelerator == "gpu"
    shared = processes_per_pod * (SHARED_MEMORY_PER_GPU if is_gpu else SHARED_MEMORY_PER_CPU_PROCESS)
    checkpoint = checkpoint_bytes(architecture, workload, states)
    staged = staging_bytes(architecture, workload, states, processes_per_pod) if stages_in_memory else 0
    disk = (
        weight_bytes
        + encoded_bytes
        + 2 * (checkpoint + exported_bytes(architecture, workload, states))
        + states.disk * processes_per_pod
        + DISK_BASE_BYTES
    )
    if is_gpu:
        loads, offloaded = host_load_bytes(architecture, workload, processes_per_pod), states.host * processes_per_pod
        # Shards are offloaded while the model is loaded, at most one model of them; gradients and moments come later. What loading took is free
        # when the model is exported. On CPUs a process's own estimate has both.
        model = max(loads + min(loads, offloaded), offloaded + exported_bytes(architecture, workload, states))
        held = processes_per_pod * CUDA_PROCESS_BYTES + model
        cpu = min(
            GPU_CPU_MILLICORES * processes_per_pod, node_millicores * processes_per_pod * 9 // (10 * processes_per_node)
        )
    else:
        held = processes_per_pod * upper_bytes
        # Half of the node: the operator, object store and monitoring of small clusters live there as well.
        per_core = min(CPU_MILLICORES_MOST, node_millicores // (2 * processes_per_node))
        cpu = processes_per_pod * max(CPU_MILLICORES_LEAST, per_core - per_core % 50)
    evaluated = evaluation_bytes + (CUDA_PROCESS_BYTES if is_gpu else 0)
    return PodResources(
        cpu_millicores=max(CPU_MILLICORES_LEAST, cpu - cpu % 50),
        memory_bytes=_round_up(max(held + staged, evaluated) + shared + LAUNCHER_BYTES),
        shared_memory_bytes=shared,
        staging_bytes=staged,
        ephemeral_storage_bytes=_round_up(disk) if asks_for_disk else 0,
        gpus=processes_per_pod if is_gpu else 0,
    )


def _round_up(size: int) -> int:
    """Whole MiB: Kubernetes shows them as such."""
    return -(-size // MIB) * MIB
