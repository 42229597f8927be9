"""The estimate itself: the memory of one process at every point of a step, by component; the peak is the highest point, never a sum.

Points of the backward phase are computed separately and the highest one stands for the phase: inside the loss (forward and backward),
where all activations and the head's tiles exist, and inside the layers' backward, where the head's tiles are gone and gradients of
activations exist instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from finetune_operator.api.plan import MemoryEstimate, Phase
from finetune_operator.memory.activations.model import Passes, Segment, passes
from finetune_operator.memory.activations.model_head import loss_kind
from finetune_operator.memory.activations.size import NOTHING, Size
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import phases_between_steps
from finetune_operator.memory.footprint import Footprint, Held, footprint_of
from finetune_operator.memory.kinds import LossKind, Tuning
from finetune_operator.memory.loss import compared_bytes, tile_tokens
from finetune_operator.memory.states import States, states_of
from finetune_operator.memory.states.trainable import has_score_head
from finetune_operator.memory.teacher import divergence_bytes, teacher_pass_bytes
from finetune_operator.memory.workload import Workload


def estimate(architecture: Architecture, workload: Workload) -> MemoryEstimate:
    """Return the peak memory of one process in bytes: of its GPU (device memory, CUDA context included), or its resident set on the CPU.

    Formula: max over {load, backward, end of backward, optimizer step, evaluation, save, generation} of the sum of components; see states,
    activations, loss.py, between_steps.py, footprint.py, allocator.py and runtime.py for each term with its source.
    """
    return footprint(architecture, workload).estimate()


def footprint(architecture: Architecture, workload: Workload) -> Footprint:
    """Return the same as plain numbers, in a fifth of the time."""
    return footprint_of(workload, _phases(architecture, workload), traced=architecture.traced)


def beside_passes(architecture: Architecture, workload: Workload) -> Footprint:
    """Return the footprint of loading and of the optimizer's step alone: no batch takes less, and none is looked at."""
    states = states_of(architecture, workload)
    load, step = _load(architecture, workload, states), _optimizer_step(states)
    return footprint_of(workload, ((Phase.LOAD, (load,)), (Phase.OPTIMIZER_STEP, (step,))), traced=architecture.traced)


def _phases(architecture: Architecture, workload: Workload) -> Iterator[tuple[Phase, tuple[Held, ...]]]:
    """Yield every phase with its points, of which the highest counts."""
    states, found = states_of(architecture, workload), passes(architecture, workload)
    yield Phase.LOAD, (_load(architecture, workload, states),)
    in_loss, in_last_layer = (
        _in_loss(architecture, workload, states, found),
        _in_last_layer(architecture, workload, states, found),
    )
    begins = (_at_embedding(states), *_in_teacher(workload, states))
    yield Phase.BACKWARD, (*begins, *in_loss, *in_last_layer)
    yield Phase.BACKWARD_END, (_backward_end(architecture, workload, states, found),)
    yield Phase.OPTIMIZER_STEP, (_optimizer_step(states),)
    for phase, held in phases_between_steps(architecture, workload, states):
        yield phase, (held,)


def _load(architecture: Architecture, workload: Workload, states: States) -> Held:
    """Weights arrive tensor by tensor: the loaded ones, and the largest one twice (as stored, and cast or quantised)."""
    staged = architecture.largest_tensor * workload.numerics.base
    return Held(weights=states.loaded_weights, temporaries=staged)


def _weights(states: States, layers: int) -> int:
    """Weights during a pass: the process's own share, the root unit, and so many gathered layers."""
    return states.resident_weights + states.root_weights + layers * states.layer_weights + states.gathered_weights


def _at_embedding(states: States) -> Held:
    """The forward pass's begin: FSDP 2 copies what it gathered out of the collective's buffer, so both exist (torch 2.13, foreach_all_gather).

    The buffer is freed after the next unit is gathered (FSDPParamGroup.wait_for_unshard); an embedding that is no head is not whole by then.
    """
    layer = 0 if states.head_in_loss or not states.embedding_weights else states.layer_weights
    return Held(
        weights=states.resident_weights + 2 * (states.embedding_weights + layer),
        gradients=states.accumulated_gradients,
        optimizer=states.optimizer,
        communication=states.buckets,
    )


def _in_teacher(workload: Workload, states: States) -> Iterator[Held]:
    """The teacher's pass, which is over before the student's begins."""
    if workload.teacher is not None:
        yield Held(
            weights=states.resident_weights,
            gradients=states.accumulated_gradients,
            optimizer=states.optimizer,
            activations=teacher_pass_bytes(workload),
        )


def _most(points: Iterable[Size], tokens: int, pairs: int) -> int:
    return max((point.of(tokens, pairs) for point in points), default=0)


def _in_loss(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Iterator[Held]:
    """All layers' activations beside last norm, head and loss: forwards, and backwards."""
    kept, tokens = found.kept, workload.local_tokens
    tile = tile_tokens(found.words, architecture.hidden, workload) if found.words else 0
    divergence = divergence_bytes(architecture, workload)
    for points, earlier, casts in (
        (found.head.forward, found.earlier, found.cast_weights),
        (found.head.backward, NOTHING, 0),
    ):
        highest = max(points, key=lambda point: point.of(tokens, tile), default=NOTHING)
        # What does not grow with the tokens, such as a cast of the head, is as large in every step.
        steady = highest.fixed if workload.varied_lengths else 0
        yield Held(
            weights=_weights(states, 1) + kept.fixed + casts,
            gradients=states.accumulated_gradients,
            optimizer=states.optimizer,
            activations=kept.of(tokens, workload.pairs) - kept.fixed + earlier.of(tokens, workload.pairs),
            logits=highest.of(tokens, tile) - steady + compared_bytes(architecture.hidden, workload) + divergence,
            temporaries=steady,
            communication=states.buckets,
        )


def _in_last_layer(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Iterator[Held]:
    """The last layer's forward (with checkpointing: computed again) and backward pass; the head's gradient is there."""
    if not found.segments:
        return
    last, tokens, pairs = found.segments[-1], workload.local_tokens, workload.pairs
    below, kept = found.below(last), last.profile.kept
    gradient = found.stream * tokens
    head_gradient = found.head.weight_gradients or _waiting_head_gradient(architecture, workload)
    points = [(_most(last.profile.backward, tokens, pairs) + _held_output(workload, found, last), head_gradient)]
    if last.recomputed:
        points.append((_most(last.profile.recomputed, tokens, pairs) + gradient, head_gradient))
    else:
        forward = _most(last.profile.forward, tokens, pairs) + found.masks.of(tokens, pairs)
        points.append((forward, 0))
    for held, gradients in points:
        yield Held(
            weights=_weights(states, 2)
            + below.fixed
            + kept.fixed
            - (states.root_weights if states.head_in_loss else 0),
            gradients=states.accumulated_gradients + gradients,
            optimizer=states.optimizer,
            activations=below.of(tokens, pairs) - below.fixed + kept.of(tokens, pairs) - kept.fixed,
            temporaries=held - kept.of(tokens, pairs),
            communication=states.buckets + states.layer_reduction,
        )


def _backward_end(architecture: Architecture, workload: Workload, states: States, found: Passes) -> Held:
    """All gradients exist, or nearly: before the embedding's and the first layer's do, that layer's activations are there instead."""
    tokens, pairs = workload.local_tokens, workload.pairs
    embedding = _embedding_gradient(architecture, workload)
    beside = found.outside.of(tokens, pairs) - found.outside.fixed
    # Embedding: the stream's gradient and its own. A tied one is added to the head's as a third tensor: a real step with a tied weight of
    # 195 MiB grew by three times that (torch 2.13).
    waiting = _waiting_head_gradient(architecture, workload)
    # TRL's fused head hands over a tensor of its own, which the engine adds to in place; that of a plain linear layer is a view.
    tied, in_place = _is_tied(architecture, workload), loss_kind(architecture, workload) is LossKind.CHUNKED
    added = embedding if workload.accumulates else 0
    if tied:
        added = embedding if in_place else 2 * embedding
    points = [found.stream * tokens + added + waiting]
    if found.segments:
        first = found.segments[0]
        missing = 0
        if not workload.accumulates:
            missing = first.profile.weight_gradients + (0 if tied else embedding)
            if workload.trains_base and workload.shards > 1:
                late = architecture.layer_parameters + architecture.vocabulary * architecture.hidden
                missing = states.gradients * late // architecture.parameters
        own_input = first.input_beside.of(tokens, pairs)
        output = _held_output(workload, found, first)
        points.append(_most(first.profile.backward, tokens, pairs) + output + own_input + waiting - missing)
        if first.recomputed:
            points.append(_most(first.profile.recomputed, tokens, pairs) + own_input + found.stream * tokens - missing)
    gathered = states.root_weights + states.layer_weights if states.retained_inputs else 0
    if states.embedding_weights:
        # The embedding is fetched while the first layer, which is whole as well, runs backwards.
        gathered = states.embedding_weights + states.layer_weights
        if states.head_in_loss:
            # Its own backward pass copies it out of the collective's buffer, when the layer is not whole any more.
            points[0] += max(0, states.embedding_weights - states.layer_weights)
    return Held(
        weights=states.resident_weights + gathered,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=beside,
        temporaries=max(0, *points) + states.retained_inputs,
        communication=states.buckets + states.root_reduction,
    )


def _held_output(workload: Workload, found: Passes, segment: Segment) -> int:
    """What a layer's second forward pass returned, though nothing of the layer reads it: the reentrant checkpoint holds it.

    torch.utils.checkpoint, CheckpointFunction.backward: `outputs` lives until the inner backward pass is done.
    """
    holds = workload.software.reentrant_checkpoints and segment.recomputed
    return found.stream * workload.local_tokens if holds else 0


def _waiting_head_gradient(architecture: Architecture, workload: Workload) -> int:
    """With accumulation a head's gradient is added to the one that exists at once, but a tied one waits for the embedding's."""
    if not _is_tied(architecture, workload) or not workload.accumulates:
        return 0
    return _embedding_gradient(architecture, workload)


def _is_tied(architecture: Architecture, workload: Workload) -> bool:
    """Whether the embedding is the head's weight too: not where a head of a few outputs takes its place."""
    return architecture.tied_embeddings and not has_score_head(architecture, workload)


def _embedding_gradient(architecture: Architecture, workload: Workload) -> int:
    """Bytes of the input embedding's gradient where it is trained and not sharded."""
    if workload.tuning is not Tuning.FULL or workload.shards > 1:
        return 0
    return workload.numerics.trained * architecture.vocabulary * architecture.hidden


def _optimizer_step(states: States) -> Held:
    """Fused AdamW (transformers' default) works in place; other optimizers need temporaries. Clipping needs none (torch 2.13, _foreach_norm)."""
    return Held(
        weights=states.resident_weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        temporaries=states.step_temporaries,
        communication=states.buckets,
    )
