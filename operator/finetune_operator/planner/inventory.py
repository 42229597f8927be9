"""What the cluster (or this machine) has to offer, as a frozen value that the planner reads."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.model import ReadModel


class GpuNodes(ReadModel):
    """Equal nodes with GPUs."""

    product: str = Field(description="Node label nvidia.com/gpu.product, such as NVIDIA-H100-80GB-HBM3.")
    memory_bytes: int = Field(description="Of one GPU: label nvidia.com/gpu.memory (MiB) × 2^20.")
    gpus_per_node: int = Field(description="Allocatable nvidia.com/gpu.")
    nodes: int = Field(description="How many such nodes are ready and schedulable.")
    cpu_millicores: int = Field(description="Allocatable, of one node.")
    host_memory_bytes: int = Field(description="Allocatable, of one node.")
    ephemeral_storage_bytes: int = Field(0, description="Allocatable, of one node; 0 when the node does not say.")
    shared: bool = Field(
        False, description="GPUs are time-sliced or partitioned (MIG): refused for several-GPU training."
    )


class CpuNodes(ReadModel):
    """Equal nodes, seen as CPU machines."""

    nodes: int
    cpu_millicores: int = Field(description="Allocatable, of one node.")
    memory_bytes: int = Field(description="Allocatable, of one node.")
    ephemeral_storage_bytes: int = Field(0, description="Allocatable, of one node; 0 when the node does not say.")


class Inventory(ReadModel):
    """Everything that could run a job; what is in use now is the scheduler's business, not the planner's."""

    gpu_nodes: tuple[GpuNodes, ...] = ()
    cpu_nodes: tuple[CpuNodes, ...] = ()
