"""How strategies spread states: what is left of weights, gradients and moments on one process, and what it holds whole for a while.

With P trained parameters of t bytes (gradients t, moments m each), a compute type of c bytes, N processes, F bytes of frozen weights:

- single, DDP: F + tP + tP + 2mP; DDP adds buckets of tP (torch copies gradients into them: gradient_as_bucket_view is off in accelerate).
- FSDP 1 and 2: everything / N (FSDP 2: padding.py); inside a step the root unit (embeddings, head) and two layers whole in the compute type.
- ZeRO with t = 4 and c = 2: ZeRO-1 2P + 2P + 12P/N, ZeRO-2 2P + 2P/N + 12P/N, ZeRO-3 18P/N plus live layers, and 4P/N more inside the step,
  where gradients are widened to float32 (ZeRO paper, arXiv 1910.02054, figure 1; deepspeed 0.19, stage_1_and_2.py and stage3.py).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.swapping import BUFFERS, ELEMENTS_TOGETHER
from finetune_operator.memory.runtime import MIB
from finetune_operator.memory.states.padding import NO_PADDING, Padding
from finetune_operator.memory.workload import Workload

TENSORS_IN_LAYER: Final = 12
"""Of decoders 9 (Llama) to 12 (biases, norms of heads). Judged; it bounds what is small."""
FIRST_STEP_BUFFERS: Final = 3
"""Beside the swapper's. Measured with 43.6 million parameters on two CPU ranks: groups of 21.8 million elements took 365 MB more of a rank than those
of 3.4 million at most, which is five such buffers; seven are counted."""


class Whole(NamedTuple):
    """The states of the whole model, before any strategy spreads them. Parameters are elements, all else bytes."""

    parameters: int
    root_parameters: int
    """Trained ones outside the layers."""
    layer_parameters: int
    """Trained ones of the largest layer."""
    gradient_parameters: int
    """Elements that get a gradient: the trained ones, or more where a flat parameter mixes them with frozen ones."""
    layer_gradients: int
    """Of the largest layer."""
    frozen: int
    root_frozen: int
    layer_frozen: int
    reference: int
    """A second model that only computes probabilities: of preferences, or a teacher."""
    moments: int
    step: int
    """Temporaries of the optimizer's step that are shared out as its states are."""
    layers: int
    """How many there are."""
    scales: int = 0
    """The part of `frozen` that FSDP leaves whole on every process (scale_bytes)."""


class Shard(NamedTuple):
    """What one process holds (bytes); see States for each field."""

    resident: int
    gradients: int
    accumulated: int
    moments: int
    step: int
    host: int = 0
    buckets: int = 0
    root: int = 0
    layer: int = 0
    layer_reduction: int = 0
    root_reduction: int = 0
    disk: int = 0


def share(size: int, processes: int) -> int:
    """Return one process's part, rounded up."""
    return -(-size // processes)


def shard(whole: Whole, workload: Workload, padding: Padding = NO_PADDING) -> Shard:
    """Return what one process holds of `whole`: the first one, where FSDP 2 cannot spread evenly."""
    if workload.shards == 1:
        return _copied(whole, workload)
    if workload.strategy is Strategy.FSDP:
        return _fsdp(whole, workload, padding)
    return _zero3(whole, workload) if workload.strategy is Strategy.ZERO3 else _zero12(whole, workload)


def _copied(whole: Whole, workload: Workload) -> Shard:
    trained = workload.numerics.trained * whole.parameters
    return Shard(
        resident=whole.frozen + whole.reference + trained,
        gradients=trained,
        accumulated=trained if workload.accumulation > 1 else 0,
        moments=whole.moments,
        step=whole.step,
        buckets=trained if workload.strategy is Strategy.DDP and workload.processes > 1 else 0,
    )


def _fsdp(whole: Whole, workload: Workload, padding: Padding) -> Shard:
    """FSDP 1 and 2 under accelerate's mixed precision: parameters are gathered and gradients reduced in the compute type.

    Reduction holds the gradient and its copy: FSDP 2 lays it out for the reduce-scatter (torch 2.13, foreach_reduce), FSDP 1 joins the
    parameters' gradients into that of the flat parameter (backward of its views).

    While gradients are accumulated accelerate switches reduction off (accelerate 1.15, Accelerator.no_sync calls
    set_requires_gradient_sync(False)): every process then holds the whole gradient in the compute type.
    """
    numerics, shards = workload.numerics, workload.shards
    trained = numerics.trained * (whole.parameters + padding.trained)
    moments = share(whole.moments + _alike(whole.moments, whole, padding), shards)
    gradients = share(numerics.trained * (whole.gradient_parameters + padding.trained), shards)
    accumulated = 0
    if workload.accumulation > 1:
        # FSDP 2 adds them up in the type that they are reduced in (torch 2.13, FSDPParam.to_accumulated_grad_if_needed).
        each = numerics.compute if workload.flat_parameters else numerics.reduction
        accumulated = gradients if workload.syncs_every_batch else each * whole.gradient_parameters
    held = Shard(
        resident=share(
            whole.frozen
            - whole.scales
            + padding.frozen
            + whole.reference
            + _alike(whole.reference, whole, padding)
            + trained,
            shards,
        )
        + whole.scales,
        gradients=gradients,
        accumulated=accumulated,
        moments=moments,
        step=share(whole.step + _alike(whole.step, whole, padding), shards),
        root=whole.root_frozen + numerics.compute * whole.root_parameters,
        layer=whole.layer_frozen
        + padding.layer_frozen
        + numerics.compute * (whole.layer_parameters + padding.layer_trained),
        layer_reduction=numerics.compute * whole.layer_gradients
        + numerics.reduction * (whole.layer_gradients + padding.layer_trained),
        root_reduction=(numerics.compute + numerics.reduction) * whole.root_parameters,
    )
    if workload.offload is Offload.NONE:
        return held
    # torch knows one policy for FSDP: weights, gradients and moments on the host (CPUOffloadPolicy).
    host = held.resident + gradients + moments
    return held._replace(resident=0, gradients=0, moments=0, step=0, host=host)


def _alike(size: int, whole: Whole, padding: Padding) -> int:
    """What comes to `size` bytes that belong to the trained parameters."""
    return size * padding.trained // whole.parameters if whole.parameters else 0


def _zero3(whole: Whole, workload: Workload) -> Shard:
    """DeepSpeed keeps a share of the compute-type weights beside the float32 one, and one flat buffer in which gradients wait for reduction."""
    numerics, shards = workload.numerics, workload.shards
    trained = numerics.trained * whole.parameters
    compute = numerics.compute * whole.parameters if numerics.trained != numerics.compute else 0
    frozen = share(whole.frozen + whole.reference, shards)
    gradients, moments = share(trained + compute, shards), share(whole.moments, shards)
    held = Shard(
        resident=frozen + share(trained + compute, shards),
        gradients=gradients,
        accumulated=share(compute or trained, shards) if workload.accumulation > 1 else 0,
        moments=moments,
        step=share(whole.step, shards),
        buckets=_bucket(whole, workload),
        root=whole.root_frozen + numerics.compute * whole.root_parameters,
        layer=whole.layer_frozen + numerics.compute * whole.layer_parameters,
        layer_reduction=2 * numerics.compute * whole.layer_parameters,
        root_reduction=2 * numerics.compute * whole.root_parameters,
    )
    if workload.offload is Offload.NONE:
        return held
    masters = share(trained, shards) if compute else 0
    offloaded = held._replace(
        resident=held.resident - masters,
        gradients=0,
        accumulated=0,
        moments=0,
        step=0,
        host=masters + gradients + moments,
    )
    if workload.offload is Offload.OPTIMIZER:
        return offloaded
    if workload.offload is Offload.NVME:
        return _swapped(whole, workload, offloaded)
    return offloaded._replace(resident=0, host=offloaded.host + offloaded.resident)


def _swapped(whole: Whole, workload: Workload, offloaded: Shard) -> Shard:
    """Masters, moments and their gradients in files, and in host memory a few buffers in which some of them are stepped (deepspeed 0.19.8).

    Gradients wait for the last micro-batch in host memory, in the compute type (stage3.py, grad_partitions_flat_buffer). Beside the swapper's
    buffers there are the gradients that states are first made with (initialize_optimizer_states) and, in step 1, both moments, which torch
    makes before they go into buffers. Gradients of which a process has less than 1 MiB are not written but wait on the GPU for the step.
    """
    numerics, shards = workload.numerics, workload.shards
    trained, own = numerics.trained * whole.parameters, share(whole.parameters, shards)
    largest = share(max(whole.root_parameters, whole.layer_parameters), shards)
    together = numerics.trained * min(own, ELEMENTS_TOGETHER + largest)
    return offloaded._replace(
        gradients=min(share(trained, shards), TENSORS_IN_LAYER * whole.layers * MIB),
        host=numerics.compute * own + (BUFFERS + FIRST_STEP_BUFFERS) * together,
        disk=2 * share(trained, shards) + share(whole.moments, shards),
    )


def _zero12(whole: Whole, workload: Workload) -> Shard:
    """Weights stay whole in the compute type; float32 masters and moments are spread, with ZeRO-2 gradients too.

    Inside the step the process's gradients are joined into one tensor before they are widened (stage_1_and_2.py, step: flatten): a share more.
    """
    numerics, shards = workload.numerics, workload.shards
    trained, compute = numerics.trained * whole.parameters, numerics.compute * whole.parameters
    spread = compute if workload.strategy is Strategy.ZERO1 else share(compute, shards)
    masters, moments = share(trained, shards), share(whole.moments, shards)
    held = Shard(
        resident=whole.frozen + whole.reference + compute + masters,
        gradients=spread + masters,
        accumulated=spread if workload.accumulation > 1 else 0,
        moments=moments,
        step=share(whole.step + compute, shards),
        buckets=_bucket(whole, workload),
    )
    if workload.offload is Offload.NONE:
        return held
    # Masters, their gradients and moments on the host, and its share of weights and waiting gradients in the compute type (deepspeed 0.19,
    # param_buffer_of_bit16_for_cpu_offload_groups, accumulated_grads_in_cpu). A gradient leaves the GPU when it is reduced: with ZeRO-1 that
    # is after the last micro-batch, so that whole ones wait on the GPU until then.
    waiting = compute if workload.strategy is Strategy.ZERO1 else 0
    return held._replace(
        resident=held.resident - masters,
        gradients=waiting,
        accumulated=waiting if workload.accumulation > 1 else 0,
        moments=0,
        step=0,
        host=2 * masters + moments + 2 * share(compute, shards),
    )


def _bucket(whole: Whole, workload: Workload) -> int:
    """DeepSpeed's flat buffer, as large as configured however small the model is; on the CPU only its touched part is resident."""
    elements = workload.reduce_bucket
    if workload.accelerator == "cpu":
        elements = min(elements, whole.parameters)
    return elements * workload.numerics.compute
