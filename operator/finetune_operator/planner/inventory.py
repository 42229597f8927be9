"""What the cluster (or this machine) has to offer, as a frozen value that the planner reads."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from finetune_operator.api.model import ReadModel

GPU_RESOURCE: Final = "nvidia.com/gpu"
"""The resource of whole GPUs, and of MIG devices with strategy `single`."""


class GpuNodes(ReadModel):
    """Equal nodes with GPUs."""

    product: str = Field(description="Node label nvidia.com/gpu.product, such as NVIDIA-H100-80GB-HBM3.")
    memory_bytes: int = Field(
        gt=0,
        description="Of one GPU: label nvidia.com/gpu.memory (MiB) × 2^20, else the catalogue's; of a shared GPU its fair share.",
    )
    gpus_per_node: int = Field(ge=1, description="Allocatable, of one node.")
    nodes: int = Field(ge=0, description="How many such nodes are ready and schedulable.")
    cpu_millicores: int = Field(ge=0, description="Allocatable, of one node.")
    host_memory_bytes: int = Field(ge=0, description="Allocatable, of one node.")
    ephemeral_storage_bytes: int = Field(0, ge=0, description="Allocatable, of one node; 0 when the node does not say.")
    shared: bool = Field(
        False, description="GPUs are time-sliced or partitioned (MIG): refused for several-GPU training."
    )
    resource: str = Field(
        GPU_RESOURCE,
        description="What pods ask for: nvidia.com/gpu, or nvidia.com/mig-1g.10gb with MIG strategy mixed.",
    )


class CpuNodes(ReadModel):
    """Equal nodes, seen as CPU machines."""

    nodes: int = Field(ge=0)
    cpu_millicores: int = Field(ge=0, description="Allocatable, of one node.")
    memory_bytes: int = Field(ge=0, description="Allocatable, of one node.")
    ephemeral_storage_bytes: int = Field(0, ge=0, description="Allocatable, of one node; 0 when the node does not say.")


class LeftOut(ReadModel):
    """Nodes that a job cannot use, and why."""

    accelerator: Literal["gpu", "cpu"] = Field(description="For which jobs they are left out.")
    product: str = Field("", description="Their GPU type, where it is known.")
    nodes: int
    names: tuple[str, ...] = Field((), description="Some of their names.")
    why: str

    @property
    def sentence(self) -> str:
        """What is told to people."""
        kind = self.product or ("unknown GPUs" if self.accelerator == "gpu" else "")
        names = ", ".join(self.names) + (", …" if self.nodes > len(self.names) else "")
        return (
            f"{self.nodes} node{'s' if self.nodes > 1 else ''}{' with ' + kind if kind else ''} ({names}): {self.why}"
        )


class Inventory(ReadModel):
    """Everything that could run a job; what is in use now is the scheduler's business, not the planner's."""

    gpu_nodes: tuple[GpuNodes, ...] = ()
    cpu_nodes: tuple[CpuNodes, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
