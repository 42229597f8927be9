"""Bytes that belong to no tensor of the model: the CUDA context, NCCL, or on the CPU the interpreter with its libraries."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB
from finetune_operator.memory.workload import Workload

MIB: Final = 2**20

CUDA_CONTEXT_BYTES: Final = round(0.62 * GIB)
"""Context and kernels of torch on one GPU: 0.60 to 0.65 GiB (nvidia-smi with nothing allocated); about 0.4 GiB on GPUs before Hopper, where
kernels are loaded when they are first used (pytorch issues 107667 and 109888). Which GPU it will be is not known here: the larger figure."""
CUBLAS_BYTES: Final = 2 * 32 * MIB
"""cuBLAS workspaces of the forward thread and of autograd's, each with its handle: 32 MiB on Hopper (pytorch pull request 175344,
CublasHandlePool.cpp), 8,519,680 bytes before it (pytorch issue 95668). torch allocates them, so that `allocated` of a measured run has them."""

NCCL_CONNECTION_BYTES: Final = 4 * MIB + 4_915_200 + 524_288
"""Buffers of one connection: protocols Simple, LL128 and LL (NVIDIA/nccl, src/init.cc, default buffer sizes): 9.2 MiB."""
NCCL_CHANNELS: Final = 24
"""On NVLink; PCIe uses 2 to 4. Memory grows with channels, not with GPUs (NVIDIA/nccl issue 986). Assumed, not measured here."""
NCCL_CONNECTIONS: Final = 2
"""Per channel: a ring's and a tree's. Assumed, not measured here."""

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
    """Return the communication library's own buffers (bytes): NCCL's on GPUs, gloo's on the CPU; none with one process.

    Each group of processes has its own: that of the data, and one more for tensor and for context parallelism (NVIDIA/nccl issue 864).
    """
    if workload.processes == 1:
        return 0
    if workload.accelerator == "cpu":
        return GLOO_BYTES
    groups = 1 + (workload.tensor_parallel > 1) + (workload.context_parallel > 1)
    return groups * NCCL_CHANNELS * NCCL_CONNECTIONS * NCCL_CONNECTION_BYTES
