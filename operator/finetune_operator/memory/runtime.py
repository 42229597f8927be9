"""Bytes that belong to no tensor of the model: the CUDA context, NCCL, or on the CPU the interpreter with its libraries."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB
from finetune_operator.memory.workload import Workload

MIB: Final = 2**20

CUDA_CONTEXT_BYTES: Final = round(0.62 * GIB)
"""Context and kernels of torch on one GPU: 0.60 to 0.65 GiB (nvidia-smi with nothing allocated)."""
CUBLAS_BYTES: Final = 32 * MIB
"""cuBLAS workspace on Hopper; 8.1 MiB on older GPUs."""
NCCL_BYTES: Final = 400 * MIB
"""NCCL's channel buffers with several GPUs. Assumed, not measured here."""

PYTHON_BASE_BYTES: Final = round(0.99 * GIB)
"""Resident set of a process that has imported TRL's SFTTrainer (torch 2.13, CPU): measured 990 MB to 0.99 GiB."""
GLOO_BYTES: Final = 32 * MIB
"""Sockets and buffers of gloo, store and process group."""
DEEPSPEED_BYTES: Final = 160 * MIB
"""DeepSpeed's modules on top."""


def runtime_bytes(workload: Workload) -> int:
    """Return what the process takes before it holds a model (bytes): CUDA context and cuBLAS, or interpreter and libraries."""
    if workload.accelerator == "gpu":
        return CUDA_CONTEXT_BYTES + CUBLAS_BYTES
    deepspeed = workload.strategy in (Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3)
    return PYTHON_BASE_BYTES + (DEEPSPEED_BYTES if deepspeed else 0)


def communication_bytes(workload: Workload) -> int:
    """Return the communication library's own buffers: NCCL's on GPUs, gloo's on the CPU; none with one process."""
    if workload.processes == 1:
        return 0
    return NCCL_BYTES if workload.accelerator == "gpu" else GLOO_BYTES
