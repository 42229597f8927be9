"""What a process can measure of itself: memory, and the arithmetic of speed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Memory:
    """Bytes in use. On a GPU its own memory, else the resident set."""

    allocated: int
    reserved: int
    peak: int


def resident_memory() -> Memory:
    """Return this process's resident set and its highest value (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return Memory(values["VmRSS"], values["VmRSS"], values["VmHWM"])


def device_memory(torch: Any) -> Memory:
    """Return the GPU memory of this process, or its resident set where there is no GPU.

    The peak is what the plan's estimate is about, all that is taken from the device: the allocator's highest reserved bytes, and what lies
    outside of it (CUDA context, cuBLAS, NCCL). A pod has its GPUs for itself, so whatever else is in use there is this process's.
    """
    if not torch.cuda.is_available():
        return resident_memory()
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    outside = max(0, total - free - reserved)
    return Memory(torch.cuda.memory_allocated(), reserved, torch.cuda.max_memory_reserved() + outside)


def held_memory(torch: Any) -> int:
    """Return the bytes in use on this process's GPU, whoever uses them, or its resident set where there is no GPU."""
    if not torch.cuda.is_available():
        return resident_memory().allocated
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def flops_per_token(total_parameters: int, trainable_parameters: int) -> float:
    """Return the matrix arithmetic of one trained token: forward 2, backward by inputs 2, backward by weights 2 where they are trained."""
    return 4.0 * total_parameters + 2.0 * trainable_parameters
