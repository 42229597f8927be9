"""The estimate itself: the memory of one process at every point of a step, by component; the peak is the highest point, never a sum.

Points of the backward phase are computed separately and the highest one stands for the phase: inside the loss (forward and backward),
where all activations and the head's tiles exist, and inside the layers' backward, where the head's tiles are gone and gradients of
activations exist instead.
"""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.plan import GIB, Component, MemoryEstimate, MemoryRange, Phase, PhaseMemory
from finetune_operator.memory.activations import checkpoint_bytes_per_layer, layer_activation_bytes
from finetune_operator.memory.allocator import fragmentation_bytes, margin_bytes
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import phases_between_steps
from finetune_operator.memory.loss import chunked_loss_backward_bytes, chunked_loss_forward_bytes, full_logits_bytes
from finetune_operator.memory.runtime import communication_bytes, runtime_bytes
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.workload import LossKind, Workload

LAYER_GRADIENTS: Final = 0.36
"""Gradients of activations inside one layer's backward, as a share of that layer's activations (fake-tensor traces of Llama layers: 1.36 in all)."""

CPU_HEAP_SHARE: Final = 0.3
"""Holes in glibc's heap, as a share of activations, logits and temporaries. Measured with a Llama of 32 million parameters and 2,048 tokens
per micro-batch: 0.15 (full, bf16), 0.19 (full), 0.39 (full with checkpointing), 0.39 (LoRA, bf16), 0.47 (LoRA). With MALLOC_MMAP_THRESHOLD_=65536
there are none: LoRA then took 1.342 GiB above the interpreter where the closed form says 1.34."""

CPU_MARGIN: Final = 0.2
"""upper on the CPU: the heap's holes vary by as much."""

CPU_UPPER_CONSTANT: Final = GIB // 8

Components = dict[Component, int]


def estimate(architecture: Architecture, workload: Workload) -> MemoryEstimate:
    """Return the peak memory of one process in bytes: of its GPU (device memory, CUDA context included), or its resident set on the CPU.

    Formula: max over {load, backward, end of backward, optimizer step, evaluation, save, generation} of the sum of components; see states,
    activations, loss.py, between_steps.py and runtime.py for each term with its source.
    """
    states = states_of(architecture, workload)
    phases = (
        PhaseMemory(phase=Phase.LOAD, components=_load(architecture, workload, states)),
        PhaseMemory(phase=Phase.BACKWARD, components=_backward(architecture, workload, states)),
        PhaseMemory(phase=Phase.BACKWARD_END, components=_backward_end(architecture, workload, states)),
        PhaseMemory(phase=Phase.OPTIMIZER_STEP, components=_optimizer_step(workload, states)),
        *(
            PhaseMemory(phase=phase, components=_components(workload, **parts))
            for phase, parts in phases_between_steps(architecture, workload, states)
        ),
    )
    peak = max(phases, key=lambda phase: phase.total)
    outside = runtime_bytes(workload) + communication_bytes(workload)
    allocated = max(_allocated(phase.components, outside) for phase in phases)
    reserved = peak.total - outside
    return MemoryEstimate(
        expected_bytes=peak.total,
        upper_bytes=peak.total + _margin(workload, reserved),
        allocated=_range(workload, allocated),
        reserved=_range(workload, reserved),
        phases=phases,
        peak_phase=peak.phase,
    )


def _range(workload: Workload, held: int) -> MemoryRange:
    return MemoryRange(expected_bytes=held, upper_bytes=held + _margin(workload, held))


def _margin(workload: Workload, held: int) -> int:
    if workload.accelerator == "cpu":
        return round(CPU_MARGIN * held) + CPU_UPPER_CONSTANT
    return margin_bytes(workload, held)


def _allocated(components: Components, outside: int) -> int:
    """Live tensors: all but what belongs to the runtime, and the allocator's holes."""
    return sum(components.values()) - components[Component.FRAGMENTATION] - outside


def _components(workload: Workload, **parts: int) -> Components:
    found = {component: parts.get(component.value, 0) for component in Component}
    if workload.accelerator == "gpu":
        found[Component.FRAGMENTATION] = fragmentation_bytes(workload, found)
    found[Component.RUNTIME] = runtime_bytes(workload)
    found[Component.COMMUNICATION] += communication_bytes(workload)
    return found


def _load(architecture: Architecture, workload: Workload, states: States) -> Components:
    """Weights arrive tensor by tensor: the loaded ones, and the largest one twice (as stored, and cast or quantised)."""
    staged = architecture.largest_tensor * workload.numerics.base
    return _components(workload, weights=states.loaded_weights, temporaries=staged)


def _backward(architecture: Architecture, workload: Workload, states: States) -> Components:
    points = (
        _in_loss_forward(architecture, workload, states),
        _in_loss_backward(architecture, workload, states),
        _in_layer_backward(architecture, workload, states),
    )
    highest = max(points, key=lambda components: sum(components.values()))
    if workload.accelerator == "cpu":
        passing = highest[Component.ACTIVATIONS] + highest[Component.LOGITS] + highest[Component.TEMPORARIES]
        highest[Component.FRAGMENTATION] = round(CPU_HEAP_SHARE * passing)
    return highest


def _kept_activations(architecture: Architecture, workload: Workload) -> int:
    """What all layers keep, and the last norm: its input in float32 and its output, which the head reads."""
    if workload.checkpointing is Checkpointing.NONE:
        kept = sum(b.copies * layer_activation_bytes(architecture, b, workload) for b in architecture.blocks)
    else:
        kept = architecture.layers * checkpoint_bytes_per_layer(architecture, workload)
    last_norm = (4 + workload.numerics.compute) * architecture.hidden
    return workload.tokens * (kept + last_norm)


def _one_layer(architecture: Architecture, workload: Workload) -> int:
    """Activations of the layer that keeps the most."""
    most = max(layer_activation_bytes(architecture, block, workload) for block in architecture.blocks)
    return most * workload.tokens


def _in_loss_forward(architecture: Architecture, workload: Workload, states: States) -> Components:
    logits = 0
    if workload.loss is LossKind.CHUNKED:
        logits = chunked_loss_forward_bytes(architecture, workload)
    return _components(
        workload,
        weights=states.resident_weights
        + states.root_weights
        + states.layer_weights
        + states.gathered_weights
        + states.cast_weights,
        gradients=states.accumulated_gradients,
        optimizer=states.optimizer,
        activations=_kept_activations(architecture, workload),
        logits=logits,
        communication=states.buckets,
    )


def _in_loss_backward(architecture: Architecture, workload: Workload, states: States) -> Components:
    casts = states.cast_weights if workload.checkpointing is Checkpointing.NONE else 0
    head_gradient = 0
    if workload.loss is LossKind.CHUNKED:
        logits = chunked_loss_backward_bytes(architecture, workload)
        head_gradient = 4 * architecture.vocabulary * architecture.hidden if workload.trains_base else 0
    else:
        logits = full_logits_bytes(architecture, workload)
    return _components(
        workload,
        weights=states.resident_weights + states.root_weights + states.layer_weights + states.gathered_weights + casts,
        gradients=states.accumulated_gradients,
        optimizer=states.optimizer,
        activations=_kept_activations(architecture, workload),
        logits=logits,
        temporaries=head_gradient,
        communication=states.buckets,
    )


def _in_layer_backward(architecture: Architecture, workload: Workload, states: States) -> Components:
    """The last layer's backward: its activations (computed again with checkpointing), their gradients, and the head's gradient."""
    layer = _one_layer(architecture, workload)
    again = layer if workload.checkpointing is Checkpointing.FULL else 0
    casts = (
        states.cast_weights
        if workload.checkpointing is Checkpointing.NONE
        else states.cast_weights // architecture.layers
    )
    return _components(
        workload,
        weights=states.resident_weights
        + states.root_weights
        + 2 * states.layer_weights
        + states.gathered_weights
        + casts,
        gradients=states.accumulated_gradients or _head_gradient(architecture, workload),
        optimizer=states.optimizer,
        activations=_kept_activations(architecture, workload) + again,
        temporaries=round(LAYER_GRADIENTS * layer) + _widened(states),
        communication=states.buckets + states.layer_reduction,
    )


def _head_gradient(architecture: Architecture, workload: Workload) -> int:
    if not workload.trains_base:
        return 0
    per_element = workload.numerics.trained if workload.shards == 1 else workload.numerics.compute
    return per_element * architecture.vocabulary * architecture.hidden


def _widened(states: States) -> int:
    """Whole weights that one linear layer needs for a moment: widened ones of QLoRA, the norm of DoRA's."""
    return max(states.dequantised_weights, states.adapter_temporaries)


def _backward_end(architecture: Architecture, workload: Workload, states: States) -> Components:
    """All gradients exist; before the embedding's and the first layer's do, that layer's activations are there instead."""
    layer = _one_layer(architecture, workload)
    first = round((1 + LAYER_GRADIENTS) * layer) + _widened(states) + states.retained_inputs
    gathered = states.root_weights + states.layer_weights if states.retained_inputs else 0
    missing = 0
    if workload.trains_base:
        late = architecture.layer_parameters + architecture.vocabulary * architecture.hidden
        missing = states.gradients * late // architecture.parameters
    return _components(
        workload,
        weights=states.resident_weights + gathered,
        gradients=states.gradients,
        optimizer=states.optimizer,
        temporaries=max(0, first - missing),
        communication=states.buckets + states.root_reduction,
    )


def _optimizer_step(workload: Workload, states: States) -> Components:
    """Fused AdamW (transformers' default) works in place; other optimizers need temporaries. Clipping needs none (torch 2.13, _foreach_norm)."""
    return _components(
        workload,
        weights=states.resident_weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        temporaries=states.step_temporaries,
        communication=states.buckets,
    )
