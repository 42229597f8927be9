"""Memory of the evaluation after the training: a process of its own that has the weights, no gradients and no optimizer, and generates."""

from __future__ import annotations

from finetune_operator.api.evaluators import ENTAILMENT_WORK_BYTES
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import cached_width, live_bytes
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.runtime import runtime_bytes
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


def entailment_bytes(weights: int) -> int:
    """Return what the model of metric entailment takes beside the one that has answered; 0 where there is none."""
    return weights + ENTAILMENT_WORK_BYTES if weights else 0


def judging_host_bytes(
    architecture: Architecture,
    workload: Workload,
    *,
    tokens: int,
    answer: int,
    entailment_weights: int,
    gpu_bytes: int,
) -> int:
    """Return the host memory of the process that evaluates, one row at a time: what the first pod has to have for it.

    Formula: on the CPU libraries, weights, and the larger of a row and the entailment model with its batch: it is asked when all answers are there.
    On GPUs the base and the tuned model are loaded one after the other through host memory (4-bit weights tensor by tensor); what the `gpu_bytes` of
    the pod's GPUs do not hold stays there, and so does the entailment model where they have no room for it, as this assumes. The process's
    own libraries are not in it there.

    Args:
        architecture: The model.
        workload: Of training, for its number formats.
        tokens: Of the longest text.
        answer: Tokens that are generated at most.
        entailment_weights: Bytes of that model as stored; 0 where there is none.
        gpu_bytes: That may be used of all GPUs of the pod; 0 on the CPU.
    """
    weights = judging_weights(architecture, workload)
    row = judging_batch_bytes(architecture, workload, 1, tokens, answer)
    other = entailment_bytes(entailment_weights)
    if workload.accelerator == "cpu":
        return runtime_bytes(workload) + weights + max(row, other)
    width = 4 if workload.numerics.base == 4 else 2
    loads = weights if workload.quantization is Quantization.NONE else 2 * architecture.largest_tensor * width
    return max(loads, max(0, weights + row - gpu_bytes) + other)
