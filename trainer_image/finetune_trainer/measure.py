"""What a process can measure of itself: memory, and the arithmetic of speed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PEAK_TFLOPS: Final = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "MI300X": 1307.0,
    "V100": 125.0,
}
"""Dense bf16 TFLOP/s (V100: fp16) from the makers' data sheets, by a part of the device's name, longer parts first; the SXM parts
where the name does not tell."""


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


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU, None for one that the table lacks."""
    return next((value * 1e12 for part, value in PEAK_TFLOPS.items() if part in device_name), None)


def flops_per_token(total_parameters: int, trainable_parameters: int) -> float:
    """Return the matrix arithmetic of one trained token: forward 2, backward by inputs 2, backward by weights 2 where they are trained."""
    return 4.0 * total_parameters + 2.0 * trainable_parameters
