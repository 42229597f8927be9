"""What objective distill holds beside a step of its student: the teacher's weights, its pass, and both models' logits, tile by tile."""

from __future__ import annotations

from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import live_bytes
from finetune_operator.memory.kinds import Teacher, Tuning
from finetune_operator.memory.loss import FLOAT32, TILE_WORDS
from finetune_operator.memory.workload import TILE_TOKENS, Workload

TORCH_DIVERGENCE_BYTES: Final = 44
"""Without Triton the backward of a tile is written in torch: two tiles of logits and nine more float32 values of each pair (_backward_tile)."""


def teacher_of(architecture: Architecture) -> Teacher:
    """Return what of a teacher the memory and the time of a step depend on."""
    widest = max(live_bytes(architecture, block, 1) for block in architecture.blocks)
    # live_bytes has 4 bytes of the stream in float32 beside what it counts in the compute type.
    return Teacher(architecture.parameters, architecture.hidden, widest - FLOAT32 * architecture.hidden)


def teacher_weights(workload: Workload) -> int:
    """Return the bytes of the teacher's weights: whole in every process, in the compute type."""
    return 0 if workload.teacher is None else workload.numerics.compute * workload.teacher.parameters


def teacher_pass_bytes(workload: Workload) -> int:
    """Return what the teacher's pass over a micro-batch takes before the student's: one layer without gradients, and its last norm's output."""
    teacher = workload.teacher
    if teacher is None:
        return 0
    compute = workload.numerics.compute
    return workload.tokens * (compute * (teacher.live_width + teacher.hidden) + FLOAT32 * teacher.hidden)


def divergence_bytes(architecture: Architecture, workload: Workload) -> int:
    """Return what the comparison with the teacher takes in the loss, beside the student's own head.

    TRL 1.16, ChunkedDivergenceFunction: two float32 tiles of 4,096 tokens × 32,768 words, however small the vocabulary (on CPUs memory that is
    never written takes none), hidden states of the counted tokens of both models, the gradient of the student's in float32, and where the head
    is trained a second gradient of it beside that of the cross-entropy.
    """
    teacher = workload.teacher
    if teacher is None:
        return 0
    tokens, compute = workload.tokens, workload.numerics.compute
    rows = min(tokens, TILE_TOKENS)
    if workload.accelerator == "cpu":
        tiles = TORCH_DIVERGENCE_BYTES * rows * min(architecture.vocabulary, TILE_WORDS)
    else:
        tiles = 2 * FLOAT32 * rows * TILE_WORDS
    hidden = tokens * (compute * (teacher.hidden + architecture.hidden) + FLOAT32 * architecture.hidden)
    is_trained = workload.tuning is Tuning.FULL
    return tiles + hidden + (FLOAT32 * architecture.vocabulary * architecture.hidden if is_trained else 0)
