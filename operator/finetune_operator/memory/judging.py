"""Memory of the evaluation after the training: a process of its own that has the weights, no gradients and no optimizer, and generates."""

from __future__ import annotations

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import cached_width, live_bytes
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.states import states_of
from finetune_operator.memory.workload import Workload


def judging_weights(architecture: Architecture, workload: Workload) -> int:
    """Return the bytes of one model with its adapters: 16 bits (32 with fp32) per parameter, 4-bit ones as they are trained beside."""
    width = 4 if workload.numerics.base == 4 else 2
    if workload.quantization is not Quantization.NONE:
        return states_of(architecture, workload).resident_weights
    adapters = 0 if workload.trains_base else states_of(architecture, workload).trainable * 4
    return architecture.parameters * width + adapters


def judging_batch_bytes(architecture: Architecture, workload: Workload, rows: int, tokens: int, answer: int) -> int:
    """Return what a batch takes beside the weights, of whichever is more: the loss of `rows` texts, or answers to as many prompts.

    Formula: the loss holds the stream and the widest layer's tensors of rows × tokens, and per logit its own bytes and two in float32 (the copy and
    its log-softmax); generation holds keys and values of rows × (tokens + answer) in every layer, the prompt's widest layer, and one logit row per
    text.

    Args:
        architecture: The model.
        workload: Of training, for its number formats.
        rows: Texts in the batch.
        tokens: Of the longest text.
        answer: Tokens that are generated at most.
    """
    width = 4 if workload.numerics.base == 4 else 2
    live = max(live_bytes(architecture, block, width) for block in architecture.blocks) * rows * tokens
    logits = (width + 8) * architecture.vocabulary * rows
    cache = width * cached_width(architecture) * rows * (tokens + answer)
    return max(live + logits * tokens, live + cache + logits)
