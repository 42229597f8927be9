"""This machine as an inventory: its CPUs, memory and disk, and the NVIDIA GPUs that nvidia-smi lists."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from finetune_operator.planner.inventory import CpuNodes, GpuNodes, Inventory

MIB = 2**20


def inventory_of_this_machine(folder: Path) -> Inventory:
    """Return what this machine offers; `folder` is where models and checkpoints will lie.

    GPUs are named as the node label nvidia.com/gpu.product names them: spaces become dashes.
    """
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = shutil.disk_usage(folder).free
    cpu = CpuNodes(nodes=1, cpu_millicores=cores * 1000, memory_bytes=memory, ephemeral_storage_bytes=disk)
    gpus = tuple(
        GpuNodes(
            product=product,
            memory_bytes=mebibytes * MIB,
            gpus_per_node=count,
            nodes=1,
            cpu_millicores=cpu.cpu_millicores,
            host_memory_bytes=memory,
            ephemeral_storage_bytes=disk,
        )
        for (product, mebibytes), count in parse_gpu_list(_nvidia_smi()).items()
    )
    return Inventory(gpu_nodes=gpus, cpu_nodes=(cpu,))


def parse_gpu_list(text: str) -> Counter[tuple[str, int]]:
    """Return how often each (product, MiB) stands in the lines `name, memory` of nvidia-smi's CSV.

    GPUs that share the host's memory have `[N/A]` there, and cannot be planned for.
    """
    gpus: Counter[tuple[str, int]] = Counter()
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if name and memory.strip().isdecimal():
            gpus[name.strip().replace(" ", "-"), int(memory)] += 1
    return gpus


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return result.stdout if result.returncode == 0 else ""
