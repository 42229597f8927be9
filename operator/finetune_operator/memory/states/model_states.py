"""The states of one process: what is trained, how the rest is stored, what the optimizer keeps and how the strategy spreads it, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import Tuning
from finetune_operator.memory.states.load import loaded_weights
from finetune_operator.memory.states.optimizers import OptimizerMemory, optimizer_memory
from finetune_operator.memory.states.padding import padding_of
from finetune_operator.memory.states.quantization import (
    base_weight_bytes,
    dequantised_bytes,
    frozen_element_bytes,
    frozen_layer_bytes,
    scale_bytes,
)
from finetune_operator.memory.states.sharding import Shard, Whole, shard, share
from finetune_operator.memory.states.states import States
from finetune_operator.memory.states.trainable import Trained, has_score_head, outer_tensors, total, trained_tensors
from finetune_operator.memory.workload import Workload


class _Model(NamedTuple):
    """What depends neither on strategy nor on batch: computed once for an architecture and a way to train it."""

    whole: Whole
    trainable: int
    pageable: int
    step_of_largest: int
    dequantised: int
    norm_of_adapted: int


def states_of(architecture: Architecture, workload: Workload) -> States:
    """Return the states of one process; sharding.py has the formula of each strategy. Sharded sizes are rounded up."""
    states = _whatever_the_batch(architecture, workload)
    retained = _retained_inputs(architecture, workload)
    return replace(states, retained_inputs=retained) if retained else states


@derived(without=("micro_batch", "sequence_length", "accumulation"), but=("has_several_micro_batches",))
def _whatever_the_batch(architecture: Architecture, workload: Workload) -> States:
    """Return the states without the inputs that checkpoints retain."""
    model = _model(architecture, workload)
    whole = model.whole
    held = _with_own_embedding(architecture, workload, shard(whole, workload, padding_of(architecture, workload)))
    has_frozen_outside = _splits_root(workload) and not workload.trains_base and not workload.trained_embeddings
    words = frozen_element_bytes(workload) * architecture.vocabulary * architecture.hidden
    return States(
        trainable=model.trainable,
        # They are no part of the model that is sharded.
        resident_weights=held.resident + workload.numerics.compute * workload.reward_parameters,
        root_weights=held.root,
        embedding_weights=words if has_frozen_outside else 0,
        head_in_loss=has_frozen_outside and not architecture.tied_embeddings,
        layer_weights=held.layer,
        gradients=0 if workload.software.steps_in_backward else held.gradients,
        accumulated_gradients=held.accumulated,
        optimizer=held.moments,
        buckets=held.buckets,
        layer_reduction=held.layer_reduction,
        root_reduction=held.root_reduction,
        loaded_weights=loaded_weights(whole, workload),
        gathered_weights=_unsharded_layers(whole, workload),
        step_temporaries=held.step + (0 if held.host else model.step_of_largest),
        dequantised_weights=model.dequantised,
        adapter_temporaries=model.norm_of_adapted,
        retained_inputs=0,
        host=held.host + share(model.pageable, workload.shards),
        disk=held.disk,
    )


@derived()
def _model(architecture: Architecture, workload: Workload) -> _Model:
    tensors = trained_tensors(architecture, workload)
    optimizer = optimizer_memory(tensors, workload)
    return _Model(
        whole=_whole(architecture, workload, tensors, optimizer),
        trainable=total(tensors),
        pageable=optimizer.pageable,
        step_of_largest=optimizer.step_of_largest,
        dequantised=dequantised_bytes(architecture, workload),
        norm_of_adapted=_norm_of_adapted(architecture, workload),
    )


def _whole(
    architecture: Architecture, workload: Workload, tensors: Sequence[Trained], optimizer: OptimizerMemory
) -> Whole:
    """Tensor parallelism divides every tensor; norms, which stay whole, are less than a thousandth of a model."""
    parameters = total(tensors)
    root = sum(t.rows * t.columns * t.copies for t in tensors if t.outer)
    outer = sum(tensor.total for tensor in outer_tensors(architecture, workload))
    each = frozen_element_bytes(workload)
    if workload.trains_base:
        score = architecture.hidden if has_score_head(architecture, workload) else 0
        inner = architecture.parameters - architecture.outer_parameters
        in_layer = _trained_in_layer(architecture, workload)
        frozen = each * (outer + inner - (parameters - score))
        root_frozen = each * (outer - (root - score))
        layer_frozen = each * (architecture.layer_parameters - in_layer)
    else:
        in_layer = share(parameters - root, architecture.layers)
        frozen = base_weight_bytes(architecture, workload) + workload.numerics.base * workload.frozen_beside
        root_frozen = each * outer
        layer_frozen = frozen_layer_bytes(architecture, workload)
    mixes = workload.flat_parameters and workload.software.frozen_gradients and not workload.trains_base
    beside = architecture.parameters - architecture.outer_parameters if mixes else 0
    reference = workload.numerics.trained * architecture.parameters if workload.keeps_reference else 0
    if workload.teacher is not None:
        reference += workload.numerics.compute * workload.teacher.parameters
    parts = workload.tensor_parallel
    whole = Whole(
        parameters=parameters,
        root_parameters=root,
        layer_parameters=in_layer,
        gradient_parameters=parameters + beside,
        layer_gradients=in_layer + (architecture.layer_parameters if mixes else 0),
        frozen=frozen,
        root_frozen=root_frozen,
        layer_frozen=layer_frozen,
        reference=reference,
        moments=optimizer.device,
        step=optimizer.step,
        layers=architecture.layers,
        scales=0 if workload.trains_base else scale_bytes(architecture, workload),
    )
    return (
        whole
        if parts == 1
        else whole._replace(**{name: share(size, parts) for name, size in whole._asdict().items() if name != "layers"})
    )


def _trained_in_layer(architecture: Architecture, workload: Workload) -> int:
    if workload.tuning is Tuning.SPECTRUM:
        return max(sum(t.total for t in block.tensors if t.linear) for block in architecture.blocks)
    if workload.tuning is Tuning.FREEZE and not workload.trained_layers:
        return 0
    return architecture.layer_parameters


def _with_own_embedding(architecture: Architecture, workload: Workload, held: Shard) -> Shard:
    """What a process holds where the input embedding is a unit of its own: it is not whole beside the head.

    Where it is trained, it is gathered once more for its backward pass, the last one, and then reduced; the head's gradient was reduced long before.
    """
    if not _splits_root(workload) or architecture.tied_embeddings or workload.trained_embeddings:
        return held
    words, numerics = architecture.vocabulary * architecture.hidden, workload.numerics
    if workload.tuning is not Tuning.FULL:
        return held._replace(root=max(0, held.root - frozen_element_bytes(workload) * words))
    # Whole in the collective's buffer and copied out of it, or its gradient and the copy that is reduced: the weight is freed before.
    most = max(2 * numerics.compute, numerics.compute + numerics.reduction)
    return held._replace(root=held.root - numerics.compute * words, root_reduction=most * words)


def _splits_root(workload: Workload) -> bool:
    is_fsdp2 = workload.strategy is Strategy.FSDP and not workload.flat_parameters
    return workload.splits_root and is_fsdp2 and workload.shards > 1


def _unsharded_layers(whole: Whole, workload: Workload) -> int:
    """Layers stay whole between forward and backward when FSDP does not reshard them: all but the one that `layer_weights` counts."""
    if workload.reshards or workload.strategy is not Strategy.FSDP or workload.shards == 1:
        return 0
    inner = workload.numerics.compute * (whole.parameters - whole.root_parameters) + whole.frozen - whole.root_frozen
    layer = workload.numerics.compute * whole.layer_parameters + whole.layer_frozen
    return max(0, inner - layer)


def _retained_inputs(architecture: Architecture, workload: Workload) -> int:
    """Of L layers: L - 1 inputs beside the first layer's own, and L - 2 gradients beside the one that arrives."""
    retains = (
        workload.flat_parameters
        and workload.software.reentrant_checkpoints
        and workload.checkpointing is Checkpointing.FULL
        and workload.shards > 1
        and not workload.trains_base
    )
    if not retains:
        return 0
    stream = 4 if workload.software.float32_norms else workload.numerics.compute
    return workload.tokens * architecture.hidden * stream * max(0, 2 * architecture.layers - 3)


def _norm_of_adapted(architecture: Architecture, workload: Workload) -> int:
    """DoRA's weight norm (peft 0.21, DoraLinearLayer.forward and get_weight_norm), for the largest adapted weight.

    At once: the identity that the adapter is applied to, the product in its type and the compute type, the widened base weight where it is
    quantised, its sum with the scaled product, and that product.
    """
    if workload.tuning is not Tuning.DORA:
        return 0
    numerics = workload.numerics
    return max(
        (
            tensor.out_features * tensor.in_features * (numerics.trained + 2 * numerics.compute)
            + tensor.in_features**2 * numerics.trained
            for tensor in architecture.adapted(workload.targets)
        ),
        default=0,
    )
