"""The GPU types that plans know: one row each, with where its numbers come from.

Speeds are dense (the data sheets' figures "with sparsity" halved) and in bfloat16, on types without it (compute capability below 8.0) in
float16. Links are one direction (data sheets add both). Memory is what nvidia-smi shows. `matmul` is measured where the comment says so:
"MAMF" is the table of largest matrix products in stas00/ml-engineering, compute/accelerator/README.md (read 2026-11); "micro_bench" is the
table in mli/transformers-benchmarks, README.md. Prices are rounded from on-demand list prices of large clouds in 2025, A100-40GB = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Link(StrEnum):
    """How GPUs of one node reach each other; decides which share of the link's speed collectives get (roofline/links.py)."""

    NVLINK = "nvlink"
    """NVLink, or AMD's Infinity Fabric."""
    PCIE = "pcie"
    """PCIe with peer-to-peer access."""
    HOST = "host"
    """PCIe through host memory: GeForce cards have no peer-to-peer access."""


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
    """Between GPUs of one node, one direction, in GB/s."""
    price: float
    """Relative price of an hour; only for choosing between types."""
    capability: tuple[int, int] | None = (8, 0)
    """CUDA compute capability; None for other makers."""
    matmul: float = 0.61
    """Share of `tflops` that the largest matrix products reach. 0.61 is the RTX A6000's (micro_bench), taken for boards nobody measured: they
    are limited by power as it is."""
    wiring: Link = Link.NVLINK

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bfloat16: NVIDIA from compute capability 8.0 on, AMD's Instinct."""
        return self.capability is None or self.capability >= (8, 0)


def _mib(count: int) -> int:
    return count * 2**20


_PCIE, _HOST = Link.PCIE, Link.HOST

ROWS: Final = (
    # NVIDIA GB300 NVL72 and GB200 NVL72 data sheets: 180 PFLOP/s dense bf16 for 72 GPUs, 8 TB/s, NVLink 5 1.8 TB/s. MAMF (GB200) 1822 of 2500.
    Gpu("NVIDIA-GB300", ("GB300",), _mib(284208), 2500, 8000, 900, 6.8, (10, 3), 0.729),
    Gpu("NVIDIA-GB200", ("GB200",), _mib(189471), 2500, 8000, 900, 5.8, (10, 0), 0.729),
    # NVIDIA DGX B300 and DGX B200 data sheets: 36 PFLOP/s sparse bf16 for 8, 8 TB/s, NVLink 5. MAMF 1769 (B300) and 1745 (B200) of 2250.
    Gpu("NVIDIA-B300-SXM6-AC", ("B300",), _mib(275040), 2250, 8000, 900, 6.2, (10, 3), 0.786),
    Gpu("NVIDIA-B200", ("B200",), _mib(183359), 2250, 8000, 900, 5.2, (10, 0), 0.776),
    # NVIDIA H200 data sheet: SXM 1,979 and NVL 1,671 TFLOP/s sparse, 4.8 TB/s, NVLink 900 GB/s both directions. MAMF "the same as H100".
    Gpu("NVIDIA-H200-NVL", ("H200", "NVL"), _mib(143771), 835, 4800, 450, 2.8, (9, 0), 0.65),
    Gpu("NVIDIA-H200", ("H200",), _mib(143771), 989, 4800, 450, 2.9, (9, 0), 0.803),
    # NVIDIA GH200 data sheet: 990 TFLOP/s, 96 GB HBM3 at 4 TB/s or 144 GB HBM3e at 4.9 TB/s. MAMF 828.6 of 989 (HBM3e, 900 W).
    Gpu("NVIDIA-GH200-144G-HBM3e", ("GH200", "HBM3E"), _mib(146831), 989, 4900, 450, 2.7, (9, 0), 0.836),
    Gpu("NVIDIA-GH200-480GB", ("GH200",), _mib(97871), 989, 4000, 450, 2.4, (9, 0), 0.836),
    # NVIDIA H100 data sheet: SXM 989, NVL 835, PCIe 756; NVLink 450 (NVL bridge 300). MAMF (SXM) 794.5 of 989. The 350-400 W boards are not
    # measured: 0.65 assumed, between the SXM's and a board limited by power.
    Gpu("NVIDIA-H100-NVL", ("H100", "NVL"), _mib(95830), 835, 3938, 300, 2.4, (9, 0), 0.65),
    Gpu("NVIDIA-H100-PCIe", ("H100", "PCIE"), _mib(81559), 756, 2039, 64, 2.2, (9, 0), 0.65, _PCIE),
    Gpu("NVIDIA-H100-80GB-HBM3", ("H100",), _mib(81559), 989, 3350, 450, 2.5, (9, 0), 0.803),
    # NVIDIA H800 (the H100 for China: the same but NVLink 400 GB/s both directions) and H20 data sheets: 148 TFLOP/s, 4.0 TB/s, NVLink 900.
    # H20: far below its power limit; 0.9 assumed.
    Gpu("NVIDIA-H800", ("H800",), _mib(81559), 989, 3350, 200, 2.5, (9, 0), 0.803),
    Gpu("NVIDIA-H20", ("H20",), _mib(97871), 148, 4000, 450, 1.1, (9, 0), 0.9),
    # NVIDIA A100 data sheet: 312 TFLOP/s; SXM 2,039 (80 GB) and 1,555 GB/s, PCIe 1,935; NVLink 600 GB/s both directions. MAMF 271.2 and 252.9.
    Gpu("NVIDIA-A100-80GB-PCIe", ("A100", "80GB", "PCIE"), _mib(81920), 312, 1935, 32, 1.2, (8, 0), 0.811, _PCIE),
    Gpu("NVIDIA-A100-PCIE-40GB", ("A100", "PCIE"), _mib(40960), 312, 1555, 32, 0.95, (8, 0), 0.811, _PCIE),
    Gpu("NVIDIA-A100-SXM4-80GB", ("A100", "80GB"), _mib(81920), 312, 2039, 300, 1.3, (8, 0), 0.869),
    Gpu("NVIDIA-A100-SXM4-40GB", ("A100",), _mib(40960), 312, 1555, 300, 1.0, (8, 0), 0.869),
    # NVIDIA A30 data sheet: 165 TFLOP/s, 933 GB/s, NVLink bridge 200 GB/s both directions; A40: 149.7 TFLOP/s, 696 GB/s.
    Gpu("NVIDIA-A30", ("A30",), _mib(24576), 165, 933, 100, 0.45, (8, 0), 0.811),
    Gpu("NVIDIA-A40", ("A40",), _mib(46068), 150, 696, 32, 0.5, (8, 6), wiring=_PCIE),
    # NVIDIA L40S (362 TFLOP/s), L40 (181) and L4 (121) data sheets: 864, 864 and 300 GB/s, PCIe 4 x16.
    Gpu("NVIDIA-L40S", ("L40S",), _mib(46068), 362, 864, 32, 0.7, (8, 9), wiring=_PCIE),
    Gpu("NVIDIA-L40", ("L40",), _mib(46068), 181, 864, 32, 0.6, (8, 9), wiring=_PCIE),
    Gpu("NVIDIA-L4", ("L4",), _mib(23034), 121, 300, 32, 0.3, (8, 9), wiring=_PCIE),
    # NVIDIA A10 data sheet: 125 TFLOP/s, 600 GB/s; A10G (AWS) has 70 in Amazon's documents; A16: four GPUs of 17.9 TFLOP/s and 200 GB/s.
    Gpu("NVIDIA-A10G", ("A10G",), _mib(23028), 70, 600, 32, 0.37, (8, 6), 0.85, _PCIE),
    Gpu("NVIDIA-A10", ("A10",), _mib(23028), 125, 600, 32, 0.37, (8, 6), wiring=_PCIE),
    Gpu("NVIDIA-A16", ("A16",), _mib(15356), 17.9, 200, 8, 0.13, (8, 6), 0.85, _PCIE),
    # NVIDIA RTX PRO 6000 Blackwell data sheet: 4 PFLOP/s sparse fp4 = 504 dense bf16, 1.6 (server) to 1.8 TB/s, PCIe 5 x16.
    Gpu(
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        ("PRO", "6000", "BLACKWELL"),
        _mib(97887),
        504,
        1597,
        64,
        0.9,
        (12, 0),
        wiring=_PCIE,
    ),
    # NVIDIA RTX 6000 Ada data sheet: 1,457 TFLOP/s sparse fp8 = 364 dense bf16, 960 GB/s. RTX A6000: 154.8 TFLOP/s, 768 GB/s, micro_bench 95.
    Gpu("NVIDIA-RTX-6000-Ada-Generation", ("6000", "ADA"), _mib(49140), 364, 960, 32, 0.6, (8, 9), wiring=_PCIE),
    Gpu("NVIDIA-RTX-A6000", ("A6000",), _mib(49140), 155, 768, 32, 0.5, (8, 6), 0.614, _PCIE),
    # NVIDIA Blackwell, Ada and Ampere GA102 white papers, fp16 with fp32 accumulation: 209.5, 165.2 and 71 TFLOP/s; 1,792, 1,008 and 936 GB/s.
    # micro_bench: 161 of 165 (4090) and 81 of 80 (3090 Ti); the 5090 is taken to be like the 4090.
    Gpu("NVIDIA-GeForce-RTX-5090", ("5090",), _mib(32607), 209.5, 1792, 64, 0.45, (12, 0), 0.95, _HOST),
    Gpu("NVIDIA-GeForce-RTX-4090", ("4090",), _mib(24564), 165, 1008, 32, 0.35, (8, 9), 0.97, _HOST),
    Gpu("NVIDIA-GeForce-RTX-3090", ("3090",), _mib(24576), 71, 936, 32, 0.2, (8, 6), 0.97, _HOST),
    # NVIDIA Tesla V100 data sheet: 125 TFLOP/s float16 (PCIe 112), 900 GB/s, NVLink 300 GB/s both directions. micro_bench 95 of 125.
    Gpu("Tesla-V100-PCIE-32GB", ("V100", "PCIE", "32GB"), _mib(32768), 112, 900, 16, 1.1, (7, 0), 0.76, _PCIE),
    Gpu("Tesla-V100-PCIE-16GB", ("V100", "PCIE"), _mib(16384), 112, 900, 16, 1.0, (7, 0), 0.76, _PCIE),
    Gpu("Tesla-V100-SXM2-32GB", ("V100", "32GB"), _mib(32768), 125, 900, 150, 1.2, (7, 0), 0.76),
    Gpu("Tesla-V100-SXM2-16GB", ("V100",), _mib(16384), 125, 900, 150, 1.1, (7, 0), 0.76),
    # NVIDIA T4 data sheet: 65 TFLOP/s float16, 320 GB/s (300 in some prints), PCIe 3 x16.
    Gpu("Tesla-T4", ("T4",), _mib(15360), 65, 300, 16, 0.19, (7, 5), wiring=_PCIE),
    # AMD Instinct data sheets: MI355X 2,516 TFLOP/s dense bf16, 288 GB, 8 TB/s; MI325X and MI300X 1,307, 256 and 192 GB, 6.0 and 5.3 TB/s;
    # Infinity Fabric 7 × 76.8 and 7 × 64 GB/s. Memory: GiB of the name less 16 MiB. MAMF 1565, 784.9 and 668.4.
    Gpu("AMD-Instinct-MI355X", ("MI355X",), _mib(294896), 2516, 8000, 538, 3.4, None, 0.622),
    Gpu("AMD-Instinct-MI325X", ("MI325X",), _mib(262128), 1307, 6000, 448, 2.7, None, 0.6),
    Gpu("AMD-Instinct-MI300X", ("MI300X",), _mib(196592), 1307, 5300, 448, 2.5, None, 0.511),
)
"""Known types; those with longer names before those whose words they contain."""
