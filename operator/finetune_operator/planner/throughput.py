"""How fast a way to run a job is: seconds per step, tokens per second, duration, GPU-hours and money.

The arithmetic is the roofline's (planner/roofline); how near it comes to published runs: docs/explanation/throughput.md.
"""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.roofline.links import NETWORK
from finetune_operator.planner.roofline.step import time_of
from finetune_operator.planner.roofline.work import Work, work_of

CPU_TFLOPS: Final = 0.05
"""One CPU process, float32."""


def step_seconds(architecture: Architecture, workload: Workload, gpu: Gpu, per_node: int) -> float:
    """Return the seconds of one optimizer step on `gpu`, with `per_node` processes on every node."""
    return work_seconds(work_of(architecture, workload), gpu, per_node)


def work_seconds(work: Work, gpu: Gpu, per_node: int, network: float = NETWORK) -> float:
    """Return the same of work that was counted before: 5 µs, where counting takes 100; `network` is GB/s of one node."""
    return time_of(work, gpu, per_node, network=network).seconds
