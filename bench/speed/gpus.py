"""The catalogue's GPU of a row: its column `gpu` is a short name."""

from __future__ import annotations

import re
from typing import Final

from accuracy.rows import Row

from finetune_operator.planner.catalogue import UNKNOWN, gpu_of
from finetune_operator.planner.gpu_table import Gpu

WORDS: Final[tuple[tuple[str, str], ...]] = (
    (r"A100.*PCIE.*80", "NVIDIA-A100-80GB-PCIe"),
    (r"A100.*80|A800", "NVIDIA-A100-SXM4-80GB"),
    (r"A100", "NVIDIA-A100-SXM4-40GB"),
    (r"H100.*PCIE", "NVIDIA-H100-PCIe"),
    (r"H100", "NVIDIA-H100-80GB-HBM3"),
    (r"V100.*32", "Tesla-V100-SXM2-32GB"),
    (r"V100", "Tesla-V100-SXM2-16GB"),
    (r"6000 ?ADA", "NVIDIA-RTX-6000-Ada-Generation"),
    (r"A6000", "NVIDIA-RTX-A6000"),
    (r"3090", "NVIDIA-GeForce-RTX-3090"),
    (r"4090", "NVIDIA-GeForce-RTX-4090"),
    (r"5090", "NVIDIA-GeForce-RTX-5090"),
    (r"B200", "NVIDIA-B200"),
    (r"MI300X", "AMD-Instinct-MI300X"),
)

NETWORK: Final = re.compile(r"(\d+) ?gbps", re.IGNORECASE)


def gpu_of_row(row: Row) -> Gpu | str:
    """Return the catalogue's row, or that it lacks this GPU."""
    name = row.text("gpu").upper()
    product = next((product for pattern, product in WORDS if re.search(pattern, name)), f"NVIDIA-{name}")
    found = gpu_of(product)
    return f"the catalogue lacks gpu {row.text('gpu')!r}" if found is UNKNOWN else found


def network_of_row(row: Row) -> float | None:
    """Return the network of one node in GB/s as the row's notes say it, or None."""
    found = NETWORK.search(row.text("notes"))
    return int(found[1]) / 8 if found else None
