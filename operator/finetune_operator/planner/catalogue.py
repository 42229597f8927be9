"""Finding a node's GPU type in the table of GPU types: by the words of its product label, with MIG slices and shared GPUs.

A node label such as NVIDIA-H100-80GB-HBM3 finds its row by the words in it; an unknown product is planned with cautious numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Final

from finetune_operator.api.plan import GIB
from finetune_operator.planner.gpu_table import ROWS, Gpu, Link
from finetune_operator.planner.inventory import GpuNodes, Inventory

CATALOGUE: Final = ROWS

UNKNOWN: Final = Gpu("unknown", (), 16 * GIB, 60, 300, 16, 1.0, wiring=Link.PCIE)
"""Speed and price of a type that the catalogue lacks; its memory comes from the node label."""

_SLICE: Final = re.compile(r"-MIG-(\d)G\.(\d+)GB(\+ME.*)?$")
_SHARED: Final = "-SHARED"
_COMPUTE_SLICES: Final = {"A30": 4, "RTX": 4}
"""Compute slices of a whole GPU by the word in its name; 7 on the others (NVIDIA MIG User Guide, Supported MIG Profiles)."""


@lru_cache(maxsize=1024)
def gpu_of(product: str) -> Gpu:
    """Return the type of a node label's product; `UNKNOWN` where there is none.

    What GPU feature discovery appends is understood: `-MIG-1g.10gb` is a slice, whose arithmetic, bandwidth, memory and price are its share
    of the whole GPU's; `-SHARED` is time-slicing, whose speed is at best the whole GPU's.
    """
    name = re.sub(r"[_ ]", "-", product.upper()).removesuffix(_SHARED)
    found = _SLICE.search(name)
    if found is None:
        return _row(name)
    whole = _row(name[: found.start()])
    if whole is UNKNOWN:
        return UNKNOWN
    total = next((count for word, count in _COMPUTE_SLICES.items() if word in name), 7)
    compute = min(int(found[1]) / total, 1.0)
    memory = min(int(found[2]) * GIB / whole.memory_bytes, 1.0)
    return replace(
        whole,
        product=product,
        memory_bytes=round(whole.memory_bytes * memory),
        tflops=whole.tflops * compute,
        bandwidth=whole.bandwidth * memory,
        price=whole.price * max(compute, memory),
    )


def _row(name: str) -> Gpu:
    words = frozenset(name.split("-"))
    return next((gpu for gpu in CATALOGUE if words.issuperset(gpu.words)), UNKNOWN)


def processor(memory_bytes: int, tflops: float) -> Gpu:
    """Return a CPU process as if it were a GPU: `tflops` in float32, and so much memory; its links are not the bottleneck of a plan."""
    return Gpu("cpu", (), memory_bytes, tflops, 1e6, 1e6, 1.0, None, 1.0)


def catalogue_inventory(products: tuple[str, ...] = ()) -> Inventory:
    """Return an assumed inventory: eight nodes with eight GPUs of every NVIDIA type but GeForce (or of `products`), well equipped.

    Used where nobody says what the cluster has, so that a plan says which GPUs to look for. Products that the catalogue lacks are left out.
    """
    offered = [
        (gpu.product, gpu) for gpu in CATALOGUE if not gpu.product.startswith("AMD") and gpu.wiring is not Link.HOST
    ]
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
