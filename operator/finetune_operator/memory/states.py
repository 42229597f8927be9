"""Bytes of weights, gradients and optimizer state in one process: what stays from step to step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture, lora_parameters
from finetune_operator.memory.workload import Quantization, Workload

NF4_BITS: Final = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits per weight of NF4 with double quantisation: 4, an 8-bit scale per 64 weights, a float32 per 256 scales (QLoRA, arXiv 2305.14314)."""

ZERO_BUCKET_ELEMENTS: Final = 500_000_000
"""DeepSpeed's default reduce_bucket_size, in elements."""


@dataclass(frozen=True)
class States:
    """Bytes that one process holds. Whole numbers, so that components add up exactly."""

    trainable: int
    """Trained parameters of the whole model (elements, not bytes)."""
    resident_weights: int
    """What stays: the process's own share."""
    root_weights: int
    """FSDP2 and ZeRO-3: the root unit (embeddings, head), whole in the compute type from forward to the end of backward."""
    layer_weights: int
    """FSDP2 and ZeRO-3: one layer, whole in the compute type; a second one while it is prefetched."""
    cast_weights: int
    """Casts of trained weights that autocast caches during forward, and that the backward pass needs without checkpointing."""
    gradients: int
    """All gradients of this process, as they are at the end of backward."""
    optimizer: int
    buckets: int
    """Gradients on their way to other processes, for the whole step (DDP, ZeRO)."""
    layer_reduction: int
    """FSDP2 and ZeRO-3: one layer's whole gradient and its reduction buffer, inside backward."""
    root_reduction: int
    """The same of the root unit, at the end of backward."""
    loaded_weights: int
    """Weights in this process while the model is being loaded and not yet sharded."""


def trainable_parameters(architecture: Architecture, workload: Workload) -> int:
    """Return how many parameters are trained: all of them, or the adapters'."""
    if workload.trains_base:
        return architecture.parameters
    return lora_parameters(architecture, workload.rank, workload.targets)


def base_weight_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of the whole frozen model: `base` bytes per weight; with qlora linear layers at 4.127 bits."""
    if workload.quantization is not Quantization.NONE:
        quantised = architecture.quantisable_parameters
        rest = architecture.parameters - quantised
        return round(quantised * NF4_BITS / 8) + rest * workload.numerics.base
    return architecture.parameters * workload.numerics.base


def states_of(architecture: Architecture, workload: Workload) -> States:
    """Return the states of one process.

    With P trained parameters of t bytes (gradients t, two AdamW moments 2t), N processes:

    - single, DDP: weights + tP + 2tP; DDP adds buckets of tP (torch copies gradients into them).
    - FSDP2: everything / N; inside a step the root unit (embeddings, head) and two layers whole in compute type.
    - ZeRO with t = 4 and a 2-byte compute type: ZeRO-1 2P + 2P + 12P/N, ZeRO-2 2P + 6P/N + 12P/N, ZeRO-3 2P/N + 6P/N + 12P/N plus live layers
      (ZeRO paper, arXiv 1910.02054, figure 1; gradients are widened to float32 for the step).

    Sharded sizes are rounded up.
    """
    if workload.trains_base:
        return _full(architecture, workload)
    return _adapters(architecture, workload)


def _share(total: int, processes: int) -> int:
    return -(-total // processes)


def _full(architecture: Architecture, workload: Workload) -> States:
    parameters, numerics, shards = architecture.parameters, workload.numerics, workload.shards
    trained, compute = numerics.trained * parameters, numerics.compute * parameters
    whole = States(
        trainable=parameters,
        resident_weights=trained,
        root_weights=0,
        layer_weights=0,
        cast_weights=numerics.compute * (parameters - architecture.outer_parameters) if workload.autocasts else 0,
        gradients=trained,
        optimizer=2 * numerics.moment * parameters,
        buckets=trained if workload.strategy is Strategy.DDP and workload.processes > 1 else 0,
        layer_reduction=0,
        root_reduction=0,
        loaded_weights=trained,
    )
    if shards == 1:
        return whole
    sharded = replace(
        whole, optimizer=_share(2 * numerics.moment * parameters, shards), loaded_weights=_loaded(trained, workload)
    )
    if workload.strategy in (Strategy.FSDP, Strategy.ZERO3):
        reduction = 2 * numerics.compute  # the gradient, and its copy laid out for reduce-scatter
        extra = compute if workload.strategy is Strategy.ZERO3 and numerics.trained != numerics.compute else 0
        return replace(
            sharded,
            resident_weights=_share(trained + extra, shards),
            root_weights=architecture.outer_parameters * numerics.compute,
            layer_weights=architecture.layer_parameters * numerics.compute,
            gradients=_share(trained + extra, shards),
            layer_reduction=architecture.layer_parameters * reduction,
            root_reduction=architecture.outer_parameters * reduction,
        )
    spread = compute if workload.strategy is Strategy.ZERO1 else _share(compute, shards)
    return replace(
        sharded,
        resident_weights=compute + _share(trained, shards),
        gradients=spread + _share(trained, shards),
        buckets=min(parameters, ZERO_BUCKET_ELEMENTS) * numerics.compute,
    )


def _adapters(architecture: Architecture, workload: Workload) -> States:
    """LoRA and QLoRA: a frozen base beside small trained adapters; only FSDP2 and ZeRO-3 spread the base."""
    trainable = trainable_parameters(architecture, workload)
    numerics, shards = workload.numerics, workload.shards
    base, trained = base_weight_bytes(architecture, workload), numerics.trained * trainable
    spreads = workload.strategy in (Strategy.FSDP, Strategy.ZERO3) and shards > 1
    return States(
        trainable=trainable,
        resident_weights=_share(base + trained, shards) if spreads else base + trained,
        root_weights=architecture.outer_parameters * numerics.base if spreads else 0,
        layer_weights=_frozen_layer_bytes(architecture, workload) if spreads else 0,
        cast_weights=numerics.compute * trainable if workload.autocasts else 0,
        gradients=trained if workload.strategy is Strategy.ZERO1 else _share(trained, shards),
        optimizer=_share(2 * numerics.moment * trainable, shards),
        buckets=trained if workload.processes > 1 else 0,
        layer_reduction=0,
        root_reduction=0,
        loaded_weights=_loaded(base, workload) if spreads else base,
    )


def _loaded(whole: int, workload: Workload) -> int:
    """FSDP2 and ZeRO fill their shards from host memory; on the CPU that is the process's own memory, and holds the whole model first."""
    return whole if workload.accelerator == "cpu" else _share(whole, workload.shards)


def _frozen_layer_bytes(architecture: Architecture, workload: Workload) -> int:
    if workload.quantization is Quantization.NONE:
        return architecture.layer_parameters * workload.numerics.base
    return max(
        round(block.quantisable_parameters * NF4_BITS / 8)
        + (block.parameters - block.quantisable_parameters) * workload.numerics.base
        for block in architecture.blocks
    )
