"""Traffic over weights, gradients and optimizer states: between processes, in the optimizer step, between host and GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.swapping import DISK_BYTES
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Optimizer
from finetune_operator.memory.states import base_weight_bytes, trainable_parameters
from finetune_operator.memory.workload import Workload

STEP_PASSES: Final = {Optimizer.ADAMW_FOREACH: 3.0, Optimizer.ADAFACTOR: 2.0, Optimizer.MUON: 3.0}
"""Traffic of the step relative to a fused kernel, which reads and writes every state once: foreach kernels write intermediate values."""
ONE_BYTE_MOMENTS: Final = frozenset({Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT})


@dataclass(frozen=True)
class Exchanged:
    """Bytes of the whole model that go between processes."""

    gathered: float
    """Weights, per micro-batch."""
    scattered: float
    """Gradients, per micro-batch."""
    reduced: float
    """Once per step."""


def exchanged_bytes(architecture: Architecture, workload: Workload) -> Exchanged:
    """Return what the strategy exchanges.

    DDP and ZeRO-1 reduce gradients once per step, which moves twice their bytes (ZeRO: reduced to their owners, then the weights gathered).
    ZeRO-2 reduces those of every micro-batch, since it keeps its own share only (deepspeed 0.19, engine.allreduce_gradients).
    FSDP2 and ZeRO-3 gather the weights for the forward and for the backward pass of every micro-batch, where a layer that is computed again
    is still there, and reduce gradients (ZeRO paper, arXiv 1910.02054, §7). Frozen weights are gathered and have no gradients.
    """
    if workload.processes == 1 or workload.strategy is Strategy.SINGLE:
        return Exchanged(0.0, 0.0, 0.0)
    numerics, trained = workload.numerics, float(trainable_parameters(architecture, workload))
    if workload.strategy in (Strategy.FSDP, Strategy.ZERO3):
        weights = (
            trained * numerics.compute if workload.trains_base else float(base_weight_bytes(architecture, workload))
        )
        gradient = numerics.compute if workload.trains_base else numerics.trained
        return Exchanged(weights * (2.0 if workload.reshards else 1.0), trained * gradient, 0.0)
    if workload.strategy is Strategy.ZERO2:
        return Exchanged(0.0, trained * numerics.compute, trained * numerics.compute)
    size = numerics.trained if workload.strategy is Strategy.DDP else numerics.compute
    return Exchanged(0.0, 0.0, 2.0 * trained * size)


def optimizer_bytes(architecture: Architecture, workload: Workload) -> float:
    """Return the traffic of one optimizer step in one process.

    Weights are read and written, gradients read, both moments read and written; clipping reads the gradients and scales them once before.
    """
    trained, own = trainable_parameters(architecture, workload) / workload.shards, workload.numerics.trained
    moment = 1 if workload.optimizer in ONE_BYTE_MOMENTS else workload.numerics.moment
    moments = 0.0 if workload.optimizer is Optimizer.SGD else 4.0 * moment
    return trained * ((3.0 * own + moments) * STEP_PASSES.get(workload.optimizer, 1.0) + 3.0 * own)


def host_link_bytes(architecture: Architecture, workload: Workload, passes: float) -> tuple[float, float]:
    """Return the bytes between host and GPU per micro-batch and per step: offloaded weights in every pass; gradients down and weights up."""
    if workload.offload is Offload.NONE:
        return 0.0, 0.0
    step = 2.0 * workload.numerics.trained * trainable_parameters(architecture, workload) / workload.shards
    if workload.offload is Offload.PARAMETERS:
        return passes * base_weight_bytes(architecture, workload) / workload.shards, step
    return 0.0, step


def disk_step_bytes(architecture: Architecture, workload: Workload) -> float:
    """Return the bytes between a process and its local disk in a step: gradients are written, all is read, and masters and moments written."""
    if workload.offload is not Offload.NVME:
        return 0.0
    return 2.0 * DISK_BYTES * trainable_parameters(architecture, workload) / workload.shards
