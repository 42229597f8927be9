"""Memory of what a run does now and then beside its steps: evaluate, save, generate answers. Each is a phase; a peak there ends a run as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import Phase
from finetune_operator.api.rewards import SCORED_LENGTHS, scored_tokens
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Block
from finetune_operator.memory.footprint import Held
from finetune_operator.memory.kinds import LossKind
from finetune_operator.memory.loss import OUTPUT_CHUNKS
from finetune_operator.memory.states import States
from finetune_operator.memory.workload import Workload

TILE_LOGITS: Final = 4096 * 32768
"""TRL 1.16's chunked head: tokens × words of one tile (trl/kernels/chunked_logprob.py, trl/trainer/utils.py)."""


def phases_between_steps(
    architecture: Architecture, workload: Workload, states: States
) -> Iterator[tuple[Phase, Held]]:
    """Yield the phases that this workload has beside load and training step, with what they hold."""
    if workload.evaluation_batch:
        yield Phase.EVALUATION, _evaluation(architecture, workload, states)
    if workload.shards > 1 and workload.strategy in (Strategy.FSDP, Strategy.ZERO3):
        yield Phase.SAVE, _save(architecture, workload, states)
    if workload.generates:
        points = (_generation(architecture, workload, states), _scoring(workload, states))
        yield Phase.GENERATION, max(points, key=sum)


def _evaluation(architecture: Architecture, workload: Workload, states: States) -> Held:
    """A forward pass without gradients: the stream, the widest layer's tensors, and the logits of the whole batch with their float32 copy.

    The model's own loss makes 8 bytes beside each compute-type logit: the copy and its log-softmax. Fused losses make none of them.
    """
    tokens = workload.evaluation_batch * workload.sequences_per_row * workload.sequence_length
    teacher = workload.teacher
    compute, vocabulary = workload.numerics.compute, architecture.vocabulary
    match workload.loss:
        case LossKind.FULL_LOGITS | LossKind.HELD_CHUNKS:
            logits = (compute + 8) * vocabulary * tokens
        case LossKind.FUSED_LOGITS:
            logits = 2 * compute * vocabulary * tokens
        case LossKind.OUTPUT_CHUNKS:
            logits = (compute + 8 // OUTPUT_CHUNKS) * vocabulary * tokens
        case LossKind.CHUNKED:
            logits = compute * min(tokens * vocabulary, TILE_LOGITS)
        case LossKind.LIGER:
            # Chunks of as many tokens as make the logits about as large as the hidden states (liger-kernel, fused_linear_cross_entropy.py).
            logits = (compute + 4) * tokens * architecture.hidden
    return Held(
        weights=states.resident_weights + states.root_weights + 2 * states.layer_weights,
        optimizer=states.optimizer,
        activations=tokens * max(live_bytes(architecture, block, compute) for block in architecture.blocks)
        + (0 if teacher is None else tokens * compute * (teacher.live_width + 2 * teacher.hidden)),
        logits=logits if teacher is None else 3 * logits,
        temporaries=max(states.dequantised_weights, states.adapter_temporaries),
        communication=states.buckets,
    )


def live_bytes(architecture: Architecture, block: Block, compute: int) -> int:
    """Bytes per token of one layer without gradients: the stream, and the more of attention's tensors or the MLP's gate, up and product."""
    attention, part = block.attention, block.feed_forward
    width = part.width * max(1, part.experts_per_token) + part.shared_width
    widest = max(2 * attention.query_width + 2 * attention.key_width, (3 if part.gated else 2) * width)
    return compute * (2 * architecture.hidden + widest) + 4 * architecture.hidden


def cached_width(architecture: Architecture) -> int:
    """Elements that every token leaves in the cache of keys and values, in all layers."""
    return sum(
        block.copies * (block.attention.key_width + block.attention.value_width) for block in architecture.blocks
    )


def _save(architecture: Architecture, workload: Workload, states: States) -> Held:
    """Weights are gathered on the GPU before they go to the host.

    FSDP 2: one tensor at a time (export.py; DTensor.full_tensor holds what was gathered and the tensor made of it). FSDP 1: one unit at a
    time, in the type that is kept. ZeRO-3: one layer at a time (deepspeed 0.19, _zero3_consolidated_16bit_state_dict). Others gather nothing.
    """
    numerics = workload.numerics
    trained = numerics.trained if workload.trains_base else numerics.base
    if workload.strategy is Strategy.ZERO3:
        gathered = max(states.root_weights, states.layer_weights)
    elif workload.flat_parameters:
        gathered = max(states.root_weights, states.layer_weights) * max(1, trained // numerics.compute)
    else:
        gathered = 2 * trained * architecture.largest_tensor
    return Held(weights=states.resident_weights, optimizer=states.optimizer, temporaries=gathered)


def _generation(architecture: Architecture, workload: Workload, states: States) -> Held:
    """Sampling with the training model: keys and values of every token and layer, the last token's logits.

    ZeRO-3 and FSDP 1 gather the whole model for it (TRL 1.16, unwrap_model_for_generation, summon_full_params), FSDP 2 layer by layer for every
    token. A colocated engine has `generation_bytes` instead, which it holds during training as well, unless it sleeps.
    """
    compute = workload.numerics.compute
    held = Held(weights=states.resident_weights, optimizer=states.optimizer)
    if workload.generation_bytes:
        return held._replace(activations=workload.generation_bytes)
    per_token = cached_width(architecture)
    answers = workload.accumulation  # of all micro-batches of a step at once (TRL 1.16, steps_per_generation)
    logits = (compute + 8) * architecture.vocabulary * workload.sequences * answers
    is_whole = workload.strategy is Strategy.ZERO3 or workload.flat_parameters
    gathered = compute * architecture.parameters if is_whole else states.root_weights + 2 * states.layer_weights
    return held._replace(
        weights=states.resident_weights + (gathered if workload.shards > 1 else 0),
        activations=compute * per_token * workload.tokens * answers,
        logits=logits,
        temporaries=max(states.dequantised_weights, states.adapter_temporaries),
    )


def _scoring(workload: Workload, states: States) -> Held:
    """Reward models pass over the answers after the cache of keys and values is gone, in batches of bounded size (rewards/model_scores.py).

    A batch is padded on the right: its mask stands beside it, as truth values and as what fused attention adds to scores.
    """
    held = Held(weights=states.resident_weights, optimizer=states.optimizer)
    if not workload.reward_parameters:
        return held
    tokens = scored_tokens(workload.micro_batch, workload.sequence_length)
    mask = (1 + workload.numerics.compute) * tokens * SCORED_LENGTHS * workload.sequence_length
    return held._replace(activations=tokens * workload.scoring_width + mask)
