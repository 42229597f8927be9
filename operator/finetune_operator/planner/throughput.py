"""How long a step takes: a roofline of arithmetic, memory traffic and communication. Good enough to rank plans, not to promise dates."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.states import base_weight_bytes, trainable_parameters
from finetune_operator.memory.workload import Quantization, Workload
from finetune_operator.planner.gpu_table import Gpu

MATRIX_EFFICIENCY: Final = 0.5
"""Share of the peak that large matrix products reach inside training (MFU of well-run 7B fine-tuning is 0.4 to 0.55)."""
NF4_SLOWDOWN: Final = 1.3
"""Dequantising 4-bit weights in every pass."""
MICRO_STEP_OVERHEAD: Final = 0.004
"""Seconds per micro-batch and 10 layers for launching kernels from Python."""
CPU_MICRO_STEP_OVERHEAD: Final = 0.05
"""The same on a CPU, with gloo's synchronisation."""
NETWORK: Final = 12.5
"""GB/s between nodes: 100 Gbit/s, one direction."""
CPU_TFLOPS: Final = 0.05
"""One CPU process, float32."""


def flops_per_token(architecture: Architecture, workload: Workload) -> float:
    """Return the arithmetic of one token.

    Per active weight: 2 forward, 2 backward to inputs, 2 to weights where they are trained, 2 again with checkpointing. Causal attention:
    6 × layers × query width × length (12 halved), 8 with checkpointing.
    """
    passes = 6 if workload.trains_base else 4
    attention = 6
    if workload.checkpointing is Checkpointing.FULL:
        passes, attention = passes + 2, attention + 2
    inner = attention * architecture.layers * architecture.main_block.attention.query_width * workload.sequence_length
    adapters = 0 if workload.trains_base else 6 * trainable_parameters(architecture, workload)
    return passes * architecture.active_parameters + inner + adapters


def step_seconds(architecture: Architecture, workload: Workload, gpu: Gpu, per_node: int) -> float:
    """Return the seconds of one optimizer step on `gpu`, with `per_node` processes on every node."""
    arithmetic = flops_per_token(architecture, workload) * workload.tokens / (gpu.tflops * 1e12 * MATRIX_EFFICIENCY)
    if workload.quantization is not Quantization.NONE:
        arithmetic *= NF4_SLOWDOWN
    if workload.numerics.compute == 4:
        arithmetic *= 4
    passes = 2 if workload.checkpointing is Checkpointing.NONE else 3
    traffic = passes * base_weight_bytes(architecture, workload) / (gpu.bandwidth * 1e9)
    overhead = CPU_MICRO_STEP_OVERHEAD if workload.accelerator == "cpu" else MICRO_STEP_OVERHEAD
    micro = max(arithmetic, traffic) + overhead * architecture.layers / 10
    return micro * workload.accumulation + communication_seconds(architecture, workload, gpu, per_node)


def communication_seconds(architecture: Architecture, workload: Workload, gpu: Gpu, per_node: int) -> float:
    """Return the seconds that a step spends on exchanging gradients and weights: bytes × (N − 1) / N over the slowest link, not overlapped.

    DDP and ZeRO-2 reduce gradients once per step (2 × their bytes; ZeRO-2 then gathers weights, as much again in all); FSDP2 gathers weights
    for the forward and the backward pass of every micro-batch and reduces gradients.
    """
    processes = workload.processes
    if processes == 1:
        return 0.0
    compute = workload.numerics.compute
    trained = trainable_parameters(architecture, workload)
    if workload.strategy in (Strategy.FSDP, Strategy.ZERO3):
        weights = base_weight_bytes(architecture, workload)
        moved = workload.accumulation * (2.0 * weights + trained * compute)
    else:
        moved = 2.0 * trained * workload.numerics.trained
    link = gpu.link if per_node >= processes else min(gpu.link, NETWORK * per_node)
    return moved * (processes - 1) / processes / (link * 1e9)
