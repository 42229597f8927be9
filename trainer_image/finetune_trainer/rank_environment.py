"""The environment that a pod's ranks start with: threads, logs, network, and an allocator whose segments grow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.plan import Plan
from finetune_trainer.network import network_environment
from finetune_trainer.rank_files import RUN_DIRECTORY_VARIABLE, RunDirectory

ALLOCATOR_VARIABLES: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""torch 2.9 renamed the variable and still reads the old one."""


def rank_environment(
    plan: Plan, run: RunDirectory, inherited: Mapping[str, str], *, interface: str | None = None
) -> dict[str, str]:
    """Return the environment of a pod's ranks; what the user or the pod has set of threads, allocator and network stays.

    `interface` leads out of the pod.
    """
    environment = {
        **inherited,
        **network_environment(plan, inherited, interface),
        RUN_DIRECTORY_VARIABLE: str(run.path),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
    }
    # The last collective calls of each rank, which tell after a hang who was behind; without it gloo keeps none and NCCL's length is torch's choice.
    environment.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    threads = max(1, (os.cpu_count() or 1) // plan.processes_per_pod)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if not any(name in inherited for name in ALLOCATOR_VARIABLES):
        # Batches differ in length: without segments that grow, the allocator reserves about twice what passes through a step
        # (bench/allocator_fragmentation.py), and the memory that was planned would not be the memory that nvidia-smi shows.
        environment[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"
        if plan.offload is not Offload.NONE:
            # Pinned memory is rounded up to a power of two, which could double what is offloaded: from 1 MiB on it is not.
            environment[ALLOCATOR_VARIABLES[0]] += ",pinned_max_round_threshold_mb:1"
    if plan.offload is not Offload.NONE and plan.strategy is Strategy.FSDP:
        # By these two accelerate 1.15 (state.py, PartialState) adds gloo to NCCL, without which norms of gradients on the host cannot be summed.
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
    return environment
