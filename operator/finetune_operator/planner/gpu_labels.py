"""What a node's labels say of its GPUs: whole, time-sliced, or partitioned (MIG), as NVIDIA's device plugin and GPU feature discovery name them.

- Whole GPUs and MIG strategy `single` are resource nvidia.com/gpu; the labels gpu.product and gpu.memory are about the device that a pod gets.
- MIG strategy `mixed`: one resource per profile, nvidia.com/mig-1g.10gb, each with labels of that name (mig-1g.10gb.memory).
- Time-slicing and MPS: gpu.replicas says how many pods share one GPU, the product ends in -SHARED, or with renameByDefault the resource is
  nvidia.com/gpu.shared. The memory label is that of the whole GPU, which nobody divides: a plan takes its fair share and no more.

Source: NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery/README.md ("Generated labels") and README.md ("Shared access to GPUs").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_operator.planner.catalogue import UNKNOWN, gpu_of
from finetune_operator.planner.inventory import GPU_RESOURCE, CpuNodes, GpuNodes

AMD_GPU: Final = "amd.com/gpu"
SHARED_RESOURCE: Final = "nvidia.com/gpu.shared"
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
_MIG: Final = "nvidia.com/mig-"
_MIB: Final = 2**20


def gpus_of(labels: Mapping[str, str], amounts: Mapping[str, int], host: CpuNodes) -> tuple[tuple[GpuNodes, ...], str]:
    """Return the GPUs of one node, one entry per kind of device, and why some of them cannot be planned for (empty when all can).

    Args:
        labels: Of the node.
        amounts: Allocatable resources by name.
        host: CPUs, memory and disk of the node.
    """
    resources = sorted(name for name, count in amounts.items() if count > 0 and _is_gpu(name))
    if not resources:
        amd = amounts.get(AMD_GPU, 0) > 0
        return (), "AMD GPUs: the trainer image has no libraries for them" if amd else ""
    product = labels.get(PRODUCT_LABEL, "")
    if not product:
        return (), (
            f"its GPUs have no label {PRODUCT_LABEL}, by which pods find their node; install NVIDIA's GPU feature discovery, or label the node"
        )
    found, problem = [], ""
    for resource in resources:
        name = _product(product, resource)
        memory = _memory(labels, resource, name)
        if not memory:
            problem = f"no label {_memory_label(resource)}, and the catalogue lacks {name}; install NVIDIA's GPU feature discovery, or label the node"
            continue
        sharers = _sharers(labels, amounts, resource)
        found.append(
            GpuNodes(
                product=name,
                memory_bytes=memory // sharers,
                gpus_per_node=amounts[resource],
                nodes=1,
                cpu_millicores=host.cpu_millicores,
                host_memory_bytes=host.memory_bytes,
                ephemeral_storage_bytes=host.ephemeral_storage_bytes,
                shared=sharers > 1 or "-MIG-" in name,
                resource=resource,
            )
        )
    return tuple(found), "" if found else problem


def gpu_node_labels(product: str, resource: str) -> dict[str, str]:
    """Return the labels by which pods find nodes with these GPUs; MIG strategy mixed leaves the whole GPU's name on the node."""
    return {PRODUCT_LABEL: product.partition("-MIG-")[0] if resource.startswith(_MIG) else product}


def _is_gpu(resource: str) -> bool:
    return resource in (GPU_RESOURCE, SHARED_RESOURCE) or resource.startswith(_MIG)


def _product(product: str, resource: str) -> str:
    """The name of the device; MIG strategy mixed leaves that of the whole GPU in the label, and the profile in the resource."""
    if resource.startswith(_MIG) and "-MIG-" not in product:
        return f"{product}-MIG-{resource.removeprefix(_MIG)}"
    return product


def _memory_label(resource: str) -> str:
    return f"{resource if resource.startswith(_MIG) else GPU_RESOURCE}.memory"


def _memory(labels: Mapping[str, str], resource: str, product: str) -> int:
    """Bytes of one device: the label's, else the catalogue's; 0 when neither knows."""
    text = labels.get(_memory_label(resource), "")
    if text.isdecimal() and int(text) > 0:
        return int(text) * _MIB
    known = gpu_of(product)
    return 0 if known is UNKNOWN else known.memory_bytes


def _sharers(labels: Mapping[str, str], amounts: Mapping[str, int], resource: str) -> int:
    """How many pods may use one device at a time."""
    base = resource.removesuffix(".shared")
    replicas = labels.get(f"{base}.replicas", "")
    if replicas.isdecimal() and int(replicas) > 1:
        return int(replicas)
    is_shared = (
        resource == SHARED_RESOURCE
        or labels.get(PRODUCT_LABEL, "").endswith("-SHARED")
        or labels.get(f"{base}.sharing-strategy", "none") not in ("none", "")
    )
    if not is_shared:
        return 1
    # The label of replicas is missing: gpu.count counts devices, allocatable what the device plugin made of them.
    count = labels.get(f"{base}.count", "")
    devices = int(count) if count.isdecimal() and int(count) > 0 else 1
    return max(2, -(-amounts[resource] // devices))
