"""What is known of GPU types: memory, speed and price class, from the makers' data sheets.

A node label such as NVIDIA-H100-80GB-HBM3 finds its row by the words in it; an unknown product is planned with cautious numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.api.plan import GIB
from finetune_operator.planner.inventory import GpuNodes, Inventory


@dataclass(frozen=True)
class Gpu:
    """One GPU type."""

    product: str
    """As node label nvidia.com/gpu.product shows it."""
    words: tuple[str, ...]
    """All of these in a product's name mean this type; the first row that matches counts."""
    memory_bytes: int
    """Usable by programs, as nvidia-smi shows it (MiB × 2^20); a little less than the name says."""
    tflops: float
    """Dense TFLOP/s in bfloat16 (float16 where the type has no bfloat16)."""
    bandwidth: float
    """Memory, in GB/s."""
    link: float
    """Between GPUs of one node, one direction, in GB/s: NVLink, else PCIe."""
    price: float
    """Relative price of an hour (A100-40GB = 1), rounded from on-demand list prices of large clouds in 2025; only for choosing between types."""
    has_bf16: bool = True


def _mib(count: int) -> int:
    return count * 2**20


CATALOGUE: Final = (
    # NVIDIA B200 (DGX B200 data sheet: 36 PFLOP/s sparse bf16 for 8, NVLink 5 1.8 TB/s both directions).
    Gpu("NVIDIA-B200", ("B200",), _mib(183359), 2250, 8000, 900, 5.2),
    # NVIDIA H200 SXM data sheet: 1,979 TFLOP/s sparse, 4.8 TB/s, NVLink 900 GB/s both directions.
    Gpu("NVIDIA-H200", ("H200",), _mib(143771), 989, 4800, 450, 2.9),
    # NVIDIA H100 data sheet: NVL 835 (dense, half of 1,671), PCIe 756, SXM 989.
    Gpu("NVIDIA-H100-NVL", ("H100", "NVL"), _mib(95830), 835, 3900, 300, 2.4),
    Gpu("NVIDIA-H100-PCIe", ("H100", "PCIE"), _mib(81559), 756, 2000, 64, 2.2),
    Gpu("NVIDIA-H100-80GB-HBM3", ("H100",), _mib(81559), 989, 3350, 450, 2.5),
    # NVIDIA A100 data sheet: 312 TFLOP/s, 1.6 / 2.0 TB/s, NVLink 600 GB/s both directions.
    Gpu("NVIDIA-A100-SXM4-80GB", ("A100", "80GB"), _mib(81920), 312, 2039, 300, 1.3),
    Gpu("NVIDIA-A100-SXM4-40GB", ("A100",), _mib(40960), 312, 1555, 300, 1.0),
    # NVIDIA L40S data sheet: 362 TFLOP/s, 864 GB/s, PCIe 4 x16.
    Gpu("NVIDIA-L40S", ("L40S",), _mib(46068), 362, 864, 32, 0.7),
    # NVIDIA L4 data sheet: 121 TFLOP/s, 300 GB/s, PCIe 4 x16.
    Gpu("NVIDIA-L4", ("L4",), _mib(23034), 121, 300, 32, 0.3),
    # NVIDIA A10 data sheet: 125 TFLOP/s, 600 GB/s; A10G (AWS) has 70 in Amazon's documents.
    Gpu("NVIDIA-A10G", ("A10G",), _mib(23028), 70, 600, 32, 0.37),
    Gpu("NVIDIA-A10", ("A10",), _mib(23028), 125, 600, 32, 0.37),
    # NVIDIA RTX A6000 data sheet: 154.8 TFLOP/s dense, 768 GB/s.
    Gpu("NVIDIA-RTX-A6000", ("A6000",), _mib(49140), 155, 768, 32, 0.5),
    # NVIDIA Tesla V100 data sheet: 125 TFLOP/s float16, 900 GB/s, NVLink 300 GB/s both directions.
    Gpu("Tesla-V100-SXM2-32GB", ("V100", "32GB"), _mib(32768), 125, 900, 150, 1.2, has_bf16=False),
    Gpu("Tesla-V100-SXM2-16GB", ("V100",), _mib(16384), 125, 900, 150, 1.1, has_bf16=False),
    # NVIDIA T4 data sheet: 65 TFLOP/s float16, 320 GB/s (300 in some prints), PCIe 3 x16.
    Gpu("Tesla-T4", ("T4",), _mib(15360), 65, 300, 16, 0.19, has_bf16=False),
    # AMD Instinct MI300X data sheet: 1,307 TFLOP/s dense bf16, 5.3 TB/s, 192 GB, Infinity Fabric 7 × 64 GB/s.
    Gpu("AMD-Instinct-MI300X", ("MI300X",), _mib(196288), 1307, 5300, 448, 2.5),
)
"""Known types; those with longer names before those whose words they contain."""

UNKNOWN: Final = Gpu("unknown", (), 16 * GIB, 60, 300, 16, 1.0)
"""Speed and price of a type that the catalogue lacks; its memory comes from the node label."""


def gpu_of(product: str) -> Gpu:
    """Return the catalogue's row for a node label's product; `UNKNOWN` where there is none."""
    words = frozenset(product.upper().replace("_", "-").replace(" ", "-").split("-"))
    return next((gpu for gpu in CATALOGUE if words.issuperset(gpu.words)), UNKNOWN)


def catalogue_inventory(products: tuple[str, ...] = ()) -> Inventory:
    """Return an assumed inventory: eight nodes with eight GPUs of every NVIDIA type (or of `products`), well equipped with CPU, memory and disk.

    Used where nobody says what the cluster has, so that a plan says which GPUs to look for. Products that the catalogue lacks are left out.
    """
    offered = [(gpu.product, gpu) for gpu in CATALOGUE if not gpu.product.startswith("AMD")]
    if products:
        offered = [(product, gpu_of(product)) for product in products if gpu_of(product) is not UNKNOWN]
    return Inventory(
        gpu_nodes=tuple(
            GpuNodes(
                product=product,
                memory_bytes=gpu.memory_bytes,
                gpus_per_node=8,
                nodes=8,
                cpu_millicores=96_000,
                host_memory_bytes=2048 * GIB if gpu.memory_bytes > 64 * GIB else 768 * GIB,
                ephemeral_storage_bytes=4096 * GIB,
            )
            for product, gpu in offered
        )
    )
