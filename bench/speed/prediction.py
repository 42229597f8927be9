"""From a row to predicted tokens per second: its architecture, the workload that its software makes of it, the roofline of its GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass

from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of

from finetune_operator.memory.architecture import Architecture
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.roofline.kernel_style import KernelStyle
from finetune_operator.planner.roofline.rates import Rates
from finetune_operator.planner.roofline.step import StepTime, time_of
from finetune_operator.planner.roofline.work import Work, work_of
from speed.gpus import gpu_of_row, network_of_row
from speed.measured import Speed, data_parallel, measured, with_length

BASELINE_UTILIZATION = 0.4
TRITON_SLOWDOWN = 1.7
"""FlashAttention-2 is 1.3 to 2.5 times as fast as the first FlashAttention in Triton (arXiv 2307.08691, §4.1)."""


@dataclass(frozen=True)
class Case:
    """A row that can be predicted."""

    row: Row
    speed: Speed
    architecture: Architecture
    work: Work
    gpu: Gpu
    per_node: int
    network: float
    parallel: int
    """GPUs that work on different sequences."""

    def step(self, rates: Rates) -> StepTime:
        """Return the predicted time of a step."""
        return time_of(self.work, self.gpu, self.per_node, network=self.network, rates=rates)

    def tokens_per_second(self, rates: Rates) -> float:
        """Return the predicted tokens per second over all GPUs."""
        tokens = self.row_tokens * self.work.accumulation * self.parallel
        return tokens / self.step(rates).seconds

    @property
    def row_tokens(self) -> float:
        """Tokens of one micro-batch of one data-parallel worker."""
        return self.speed.length * (self.row.whole("micro_batch") or 1)

    @property
    def baseline(self) -> float:
        """Tokens per second by the rule of thumb: 6 operations per parameter and token at 40 % of the GPUs' peak."""
        gpus = self.row.whole("n_gpus") or 1
        return BASELINE_UTILIZATION * self.gpu.tflops * 1e12 * gpus / (6.0 * self.architecture.parameters)


def style_of(row: Row) -> KernelStyle:
    """Return what the row's columns say of its kernels."""
    words = f"{row.text('framework')} {row.text('fused_loss')}".lower()
    quantised = f"{row.text('quant')} {row.text('compute_precision')}".lower()
    checkpointing = row.text("grad_ckpt").lower()
    return KernelStyle(
        compiled=row.text("compile") == "1",
        fused=re.search(r"liger|foak|unsloth", words) is not None,
        float8=re.search(r"float8|fp8|\bf8|mxfp8", quantised) is not None,
        flash=re.search(r"flash|triton", row.text("attention").lower()) is not None,
        attention=1 / TRITON_SLOWDOWN if "triton" in row.text("attention").lower() else 1.0,
        recomputed=0.5 if re.search(r"selective|every", checkpointing) else None,
    )


def case_of(row: Row) -> Case | str:
    """Return the row as a case, or why it cannot be predicted."""
    speed = measured(row)
    if isinstance(speed, str):
        return speed
    gpu, architecture = gpu_of_row(row), architecture_of_row(row)
    if isinstance(gpu, str):
        return gpu
    if isinstance(architecture, str):
        return architecture
    filled = with_length(row, speed.length)
    workload = stack_of(filled).workload(filled, architecture)
    if isinstance(workload, str):
        return workload
    gpus, nodes = row.whole("n_gpus") or 1, row.whole("n_nodes")
    per_node = -(-gpus // nodes) if nodes else min(gpus, 8)
    reference = 8 * (50.0 if gpu.capability is None or gpu.capability >= (9, 0) else 25.0)
    stages = row.whole("pp") or 1
    work = work_of(architecture, workload, style_of(row), stages)
    return Case(row, speed, architecture, work, gpu, per_node, network_of_row(row) or reference, data_parallel(row))
