"""How long one GPU takes for its work of a step: computation and traffic in turn, Python and communication beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.roofline.links import NETWORK, exchange_of
from finetune_operator.planner.roofline.rates import (
    DEFAULT_RATES,
    FLOAT8_SPEEDUP,
    HOST_LINK,
    HOST_MEMORY,
    LOCAL_DISK,
    Rates,
    attention_share,
    cache_relief,
    float32_share,
)
from finetune_operator.planner.roofline.work import Work

COMPILED_LAUNCH: Final = 0.5
"""Python's share of a launch that torch.compile leaves: guards and generated wrappers instead of modules."""
DDP_OVERLAP: Final = 0.5
"""Share of the last micro-batch behind which DDP reduces: its backward pass."""
CPU_LAYER_SECONDS: Final = 0.005
"""Per layer and micro-batch on a CPU: dispatch, and gloo's synchronisation of several processes."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, and of what one micro-batch of it consists."""

    seconds: float
    matrix: float
    attention: float
    elementwise: float
    dequantization: float
    latency: float
    host: float
    """Python's time for launching everything; the GPU waits only where this is longer than its own work."""
    exchange: float
    exposed: float
    """Communication and transfers that the computation does not hide."""
    optimizer: float
    """Once per step."""


def time_of(work: Work, gpu: Gpu, per_node: int, *, network: float = NETWORK, rates: Rates = DEFAULT_RATES) -> StepTime:
    """Return the time of one step of `work` on `gpu`, with `per_node` processes on every node and `network` GB/s between nodes."""
    peak, bandwidth = gpu.tflops * 1e12, gpu.bandwidth * 1e9
    streaming = bandwidth * rates.bandwidth
    speed = peak * gpu.matmul * rates.matmul
    if work.float32 and not work.is_cpu:
        speed = peak * float32_share(gpu)
    linear = work.matrix_flops / (FLOAT8_SPEEDUP if work.float8 else 1.0)
    matrix = (linear + work.head_flops) / speed + work.matrix_bytes / streaming
    attention = work.attention_flops / (peak * (1.0 if work.is_cpu else attention_share(gpu)))
    elementwise = work.elementwise_bytes / (streaming * cache_relief(gpu)) + work.weight_bytes / streaming
    unpacking = rates.grouped_dequantization if work.grouped else rates.dequantization
    dequantization = work.dequantized_bytes / (bandwidth * unpacking)
    latency = work.kernels * rates.kernel_seconds
    compute = matrix + attention + elementwise + dequantization + latency
    host = work.forward_kernels * rates.forward_launch_seconds
    host += (work.kernels - work.forward_kernels) * rates.backward_launch_seconds
    if work.is_cpu:
        host, latency, compute = (
            work.layers * CPU_LAYER_SECONDS,
            0.0,
            compute - latency + work.layers * CPU_LAYER_SECONDS,
        )
    host *= COMPILED_LAUNCH if work.compiled else 1.0
    if work.gathered_bytes and work.processes > 1:
        host += work.layers * work.passes * rates.unit_seconds
    exchange = exchange_of(work, gpu, per_node, network, rates)
    moved = exchange.micro + work.host_link_bytes / (HOST_LINK * 1e9)
    exposed = max(moved - rates.overlap * compute, (1.0 - rates.overlap) * moved)
    optimizer = work.optimizer_bytes / (
        HOST_MEMORY * 1e9 if work.steps_on_host else streaming
    ) + work.host_link_step_bytes / (HOST_LINK * 1e9)
    optimizer += work.disk_step_bytes * per_node / (LOCAL_DISK * 1e9)
    micro = max(compute + exposed, host) + rates.micro_seconds
    once = exchange.step
    if work.strategy is Strategy.DDP:
        once = max(once - DDP_OVERLAP * micro, (1.0 - rates.overlap) * once)
    seconds = micro * work.accumulation + once + optimizer + rates.step_seconds
    if work.generated_tokens:
        seconds += work.scoring_flops / speed + work.generated_tokens * _pass_seconds(
            work, gpu, per_node, network, rates, speed, streaming
        )
    return StepTime(
        seconds, matrix, attention, elementwise, dequantization, latency, host, exchange.micro, exposed, optimizer
    )


def _pass_seconds(
    work: Work, gpu: Gpu, per_node: int, network: float, rates: Rates, speed: float, streaming: float
) -> float:
    """Return the seconds in which one token of every answer is written: weights are read, or Python launches kernels, whichever takes longer."""
    own = work.pass_flops / speed + work.pass_bytes / streaming
    if work.is_cpu:
        return own + work.layers * CPU_LAYER_SECONDS
    gathering = work._replace(gathered_bytes=work.pass_gathered_bytes, scattered_bytes=0.0, reduced_bytes=0.0)
    exchange = exchange_of(gathering, gpu, per_node, network, rates).micro if work.pass_gathered_bytes else 0.0
    return (
        max(own + work.pass_kernels * rates.kernel_seconds, work.pass_kernels * rates.forward_launch_seconds) + exchange
    )
