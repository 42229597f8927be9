"""The environment that a pod's ranks start with: threads, logs, and an allocator whose segments grow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from finetune_trainer.rank_files import RUN_DIRECTORY_VARIABLE, RunDirectory

ALLOCATOR_VARIABLES: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""torch 2.9 renamed the variable and still reads the old one."""


def rank_environment(processes: int, run: RunDirectory, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a pod's ranks, `processes` of them; what the user or the pod has set of threads and of the allocator stays."""
    environment = {
        **inherited,
        RUN_DIRECTORY_VARIABLE: str(run.path),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
    }
    # The last collective calls of each rank, which tell after a hang who was behind; without it gloo keeps none and NCCL's length is torch's choice.
    environment.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if not any(name in inherited for name in ALLOCATOR_VARIABLES):
        # Batches differ in length: without segments that grow, the allocator reserves about twice what passes through a step
        # (bench/allocator_fragmentation.py), and the memory that was planned would not be the memory that nvidia-smi shows.
        environment[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"
    return environment
