"""The estimate itself: the memory of one process at every point of a step, by component; the peak is the highest point, never a sum.

Points of the backward phase are computed separately and the highest one stands for the phase: inside the loss (forward and backward),
where all activations and the head's tiles exist, and inside the layers' backward, where the head's tiles are gone and gradients of
activations exist instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from finetune_operator.api.plan import GIB, Component, MemoryEstimate, MemoryRange, Phase, PhaseMemory
from finetune_operator.memory.activations.model import Passes, has_words, output_head, passes
from finetune_operator.memory.activations.size import NOTHING, Size
from finetune_operator.memory.allocator import fragmentation_bytes, margin_bytes
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import phases_between_steps
from finetune_operator.memory.loss import tile_bytes
from finetune_operator.memory.runtime import communication_bytes, runtime_bytes
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.workload import Tuning, Workload

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
    states, found = states_of(architecture, workload), passes(architecture, workload)
    phases = (
        PhaseMemory(phase=Phase.LOAD, components=_load(architecture, workload, states)),
        PhaseMemory(phase=Phase.BACKWARD, components=_backward(architecture, workload, states, found)),
        PhaseMemory(phase=Phase.BACKWARD_END, components=_backward_end(architecture, workload, states, found)),
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
        allocated=_range(workload, allocated, holes=False),
        reserved=_range(workload, reserved),
        phases=phases,
        peak_phase=peak.phase,
    )


def _range(workload: Workload, held: int, *, holes: bool = True) -> MemoryRange:
    return MemoryRange(expected_bytes=held, upper_bytes=held + _margin(workload, held, holes=holes))


def _margin(workload: Workload, held: int, *, holes: bool = True) -> int:
    if workload.accelerator == "cpu":
        return round(CPU_MARGIN * held) + CPU_UPPER_CONSTANT
    return margin_bytes(workload, held, holes=holes)


def _allocated(components: Components, outside: int) -> int:
    """Live tensors: all but what belongs to the runtime, and the allocator's holes."""
    return sum(components.values()) - components[Component.FRAGMENTATION] - outside


_COMPONENTS: Final = tuple((component.value, component) for component in Component)
"""Read from the enumeration once: a quarter of an estimate's time went into that."""


def _components(workload: Workload, **parts: int) -> Components:
    found = {component: parts.get(name, 0) for name, component in _COMPONENTS}
    if workload.accelerator == "gpu":
        found[Component.FRAGMENTATION] = fragmentation_bytes(workload, found)
    found[Component.RUNTIME] = runtime_bytes(workload)
    found[Component.COMMUNICATION] += communication_bytes(workload)
    return found


def _load(architecture: Architecture, workload: Workload, states: States) -> Components:
    """Weights arrive tensor by tensor: the loaded ones, and the largest one twice (as stored, and cast or quantised)."""
    staged = architecture.largest_tensor * workload.numerics.base
    return _components(workload, weights=states.loaded_weights, temporaries=staged)


def _backward(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Components:
    points = (*_in_loss(architecture, workload, states, found), *_in_last_layer(architecture, workload, states, found))
    highest = max(points, key=lambda components: sum(components.values()))
    if workload.accelerator == "cpu":
        passing = highest[Component.ACTIVATIONS] + highest[Component.LOGITS] + highest[Component.TEMPORARIES]
        highest[Component.FRAGMENTATION] = round(CPU_HEAP_SHARE * passing)
    return highest


def _weights(states: States, layers: int) -> int:
    """Weights during a pass: the process's own share, the root unit, and so many gathered layers."""
    return states.resident_weights + states.root_weights + layers * states.layer_weights + states.gathered_weights


def _most(points: Iterable[Size], tokens: int, pairs: int) -> int:
    return max((point.of(tokens, pairs) for point in points), default=0)


def _in_loss(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Iterator[Components]:
    """All layers' activations beside last norm, head and loss: forwards, and backwards."""
    head = output_head(architecture, workload)
    kept, tokens = found.kept, workload.tokens
    tile = tile_bytes(head.vocabulary, head.hidden, workload) if has_words(architecture, workload) else 0
    for points, earlier in ((found.head.forward, found.earlier), (found.head.backward, NOTHING)):
        yield _components(
            workload,
            weights=_weights(states, 1) + kept.fixed,
            gradients=states.accumulated_gradients,
            optimizer=states.optimizer,
            activations=kept.of(tokens, workload.pairs) - kept.fixed + earlier.of(tokens, workload.pairs),
            logits=_most(points, tokens, tile),
            communication=states.buckets,
        )


def _in_last_layer(
    architecture: Architecture, workload: Workload, states: States, found: Passes
) -> Iterator[Components]:
    """The last layer's forward (with checkpointing: computed again) and backward pass; the head's gradient is there."""
    if not found.segments:
        return
    last, tokens, pairs = found.segments[-1], workload.tokens, workload.pairs
    below, kept = found.below(last), last.profile.kept
    gradient = found.stream * tokens if last.recomputed else 0
    head_gradient = found.head.weight_gradients or _waiting_head_gradient(architecture, workload)
    yield _components(
        workload,
        weights=_weights(states, 2) + below.fixed + kept.fixed,
        gradients=states.accumulated_gradients + head_gradient,
        optimizer=states.optimizer,
        activations=below.of(tokens, pairs) - below.fixed + kept.of(tokens, pairs) - kept.fixed,
        temporaries=max(
            _most(last.profile.backward, tokens, pairs), _most(last.profile.forward, tokens, pairs) + gradient
        )
        - kept.of(tokens, pairs),
        communication=states.buckets + states.layer_reduction,
    )


def _backward_end(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Components:
    """All gradients exist, or nearly: before the embedding's and the first layer's do, that layer's activations are there instead."""
    tokens, pairs = workload.tokens, workload.pairs
    embedding = _embedding_gradient(architecture, workload)
    beside = found.outside.of(tokens, pairs) - found.outside.fixed
    # Embedding: the stream's gradient and its own. A tied one is added to the head's as a third tensor: a real step with a tied weight of
    # 195 MiB grew by three times that (torch 2.13).
    waiting = _waiting_head_gradient(architecture, workload)
    added = 2 * embedding if architecture.tied_embeddings else embedding if workload.accumulation > 1 else 0
    points = [found.stream * tokens + added + waiting]
    if found.segments:
        first = found.segments[0]
        missing = 0
        if workload.accumulation == 1:
            missing = first.profile.weight_gradients + (0 if architecture.tied_embeddings else embedding)
            if workload.trains_base and workload.shards > 1:
                late = architecture.layer_parameters + architecture.vocabulary * architecture.hidden
                missing = states.gradients * late // architecture.parameters
        own_input = first.input_beside.of(tokens, pairs)
        points.append(_most(first.profile.backward, tokens, pairs) + own_input + waiting - missing)
        if first.recomputed:
            points.append(_most(first.profile.forward, tokens, pairs) + own_input + found.stream * tokens - missing)
    gathered = states.root_weights + states.layer_weights if states.retained_inputs else 0
    return _components(
        workload,
        weights=states.resident_weights + gathered,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=beside,
        temporaries=max(0, *points) + states.retained_inputs,
        communication=states.buckets + states.root_reduction,
    )


def _waiting_head_gradient(architecture: Architecture, workload: Workload) -> int:
    """With accumulation a head's gradient is added to the one that exists at once, but a tied one waits for the embedding's."""
    if not architecture.tied_embeddings or workload.accumulation == 1:
        return 0
    return _embedding_gradient(architecture, workload)


def _embedding_gradient(architecture: Architecture, workload: Workload) -> int:
    """Bytes of the input embedding's gradient where it is trained and not sharded."""
    if workload.tuning is not Tuning.FULL or workload.shards > 1:
        return 0
    return workload.numerics.trained * architecture.vocabulary * architecture.hidden


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
