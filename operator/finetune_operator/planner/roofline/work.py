"""What one process has to compute and move in a training step, whatever GPU it runs on.

It is counted once for each way to split a job; `step.py` then asks how long a GPU type takes for it, which is cheap enough to try every
node type of a cluster.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.between_steps import cached_width
from finetune_operator.memory.derived import derived
from finetune_operator.memory.kinds import LossKind, Quantization, Tuning
from finetune_operator.memory.states import base_weight_bytes, trainable_parameters
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.roofline.adapters import adapter_cost
from finetune_operator.planner.roofline.kernel_style import PLAIN, KernelStyle
from finetune_operator.planner.roofline.layers import LayerCost, layer_cost
from finetune_operator.planner.roofline.states import disk_step_bytes, exchanged_bytes, host_link_bytes, optimizer_bytes

BACKWARD_ELEMENTWISE: Final = 2.0
BACKWARD_ATTENTION: Final = 2.5
"""Five products instead of two (FlashAttention-2, arXiv 2307.08691, §3.1: the forward pass's scores are computed again)."""
BACKWARD_KERNELS: Final = 2.0
BACKWARD_ADAPTER_PRODUCTS: Final = 2.0
"""By inputs and by weights."""
LOGIT_BYTES: Final = {
    LossKind.FULL_LOGITS: 50,
    LossKind.HELD_CHUNKS: 50,
    LossKind.OUTPUT_CHUNKS: 16,
    LossKind.FUSED_LOGITS: 12,
    LossKind.CHUNKED: 16,
    LossKind.LIGER: 12,
}
"""Per word of the vocabulary and token, forward and backward. Whole logits: written in bfloat16 (2), cast (6), shifted (8), softmax (8), loss
(4), and their gradients (22); the fused ones read and write bfloat16 logits a few times."""
TENSOR_PARALLEL_REDUCTIONS: Final = 2
"""Per layer and pass: behind attention and behind the MLP (Megatron-LM, arXiv 1909.08053), each of twice the tensor's bytes."""


class Work(NamedTuple):
    """One process's share of a step: floating-point operations, bytes and kernels of one micro-batch, unless named otherwise."""

    tokens: int
    accumulation: int
    processes: int
    strategy: Strategy
    matrix_flops: float
    """Of the layers' products, recomputation included."""
    head_flops: float
    matrix_bytes: float
    """Weights, inputs and outputs of all products."""
    attention_flops: float
    elementwise_bytes: float
    weight_bytes: float
    """Traffic over weights and gradients that does not depend on the tokens."""
    dequantized_bytes: float
    """Traffic of turning 4- or 8-bit weights into the compute type before every product."""
    kernels: float
    forward_kernels: float
    """Of all kernels those that Python launches one by one, recomputation included; the rest of the backward pass runs in C++."""
    layers: int
    passes: float
    """Over the layers."""
    gathered_bytes: float
    """Weights that a process gets from the others."""
    scattered_bytes: float
    """Gradients reduced in every micro-batch."""
    reduced_bytes: float
    """Gradients (and weights) exchanged once per step."""
    tensor_parallel_bytes: float
    optimizer_bytes: float
    """Once per step."""
    steps_on_host: bool
    host_link_bytes: float
    """Between host and GPU memory."""
    host_link_step_bytes: float
    """The same, once per step."""
    disk_step_bytes: float
    """Between host memory and local disk, once per step."""
    grouped: bool
    """Quantised in groups (GPTQ), not NF4."""
    float32: bool
    float8: bool
    compiled: bool
    is_cpu: bool
    generated_tokens: int = 0
    """Of the longest answer that a step generates: passes over the model one after another, with one token of every answer."""
    pass_bytes: float = 0.0
    """Weights, and keys and values of what stands before the token, that one such pass reads; with 4-bit weights their dequantisation."""
    pass_flops: float = 0.0
    pass_kernels: float = 0.0
    pass_gathered_bytes: float = 0.0
    scoring_flops: float = 0.0
    """Of the reward models, in a step."""


def work_of(architecture: Architecture, workload: Workload, style: KernelStyle = PLAIN, stages: int = 1) -> Work:
    """Return the work of one process for `workload`.

    Products per weight and token: 2 forward, 2 backward to inputs, 2 to weights where they are trained, 2 again where checkpointing computes
    the forward pass twice; adapters have all of them. `stages` of a pipeline share the work evenly (bubbles are left out).
    """
    layer = _sum_of_layers(architecture, workload, style)
    adapters = adapter_cost(architecture, workload)
    tokens, compute, parallel = workload.tokens, workload.numerics.compute, workload.tensor_parallel * stages
    reference = float(workload.passes_beside)
    if workload.teacher is not None:
        reference += workload.teacher.parameters / architecture.parameters
    forward, reached = 1.0 + _recomputed(workload, style) + reference, _reached(architecture, workload)
    products = forward + reached * (1.0 + _trained_share(workload))
    head, head_products = float(architecture.hidden * architecture.vocabulary), _head_products(workload) + reference
    traffic = (layer.elementwise_bytes + adapters.traffic) * (forward + reached * BACKWARD_ELEMENTWISE)
    traffic += LOGIT_BYTES[workload.loss] * architecture.vocabulary * compute / 2
    kernels = layer.kernels + adapters.kernels
    exchanged = exchanged_bytes(architecture, workload)
    host_micro, host_step = host_link_bytes(architecture, workload, forward + reached)
    quantised = workload.quantization is not Quantization.NONE
    stored = base_weight_bytes(architecture, workload) + compute * architecture.quantisable_parameters
    linear_flops = 2.0 * layer.matrix_elements * products + adapters.flops * (forward + BACKWARD_ADAPTER_PRODUCTS)
    attention = layer.attention_flops * (forward + reached * BACKWARD_ATTENTION) / style.attention
    reductions = TENSOR_PARALLEL_REDUCTIONS * 2 * (forward + reached) * architecture.layers * architecture.hidden
    work = Work(
        tokens=tokens,
        accumulation=workload.accumulation,
        processes=workload.processes,
        strategy=workload.strategy,
        matrix_flops=linear_flops * tokens / parallel,
        head_flops=2.0 * head * head_products * tokens / parallel,
        matrix_bytes=compute
        * (products * (layer.stored_elements + layer.matrix_io * tokens) + head_products * head)
        / parallel,
        attention_flops=attention * tokens / parallel,
        elementwise_bytes=traffic * tokens / parallel,
        weight_bytes=_weight_traffic(architecture, workload, forward) / parallel,
        dequantized_bytes=stored * (forward + reached) if quantised else 0.0,
        kernels=kernels * (forward + reached * BACKWARD_KERNELS),
        forward_kernels=kernels * forward,
        layers=architecture.layers,
        passes=forward + reached,
        gathered_bytes=exchanged.gathered / parallel,
        scattered_bytes=exchanged.scattered / parallel,
        reduced_bytes=exchanged.reduced / parallel,
        tensor_parallel_bytes=float(reductions * tokens * compute) if workload.tensor_parallel > 1 else 0.0,
        optimizer_bytes=optimizer_bytes(architecture, workload) / parallel,
        steps_on_host=workload.offload is not Offload.NONE,
        host_link_bytes=host_micro,
        host_link_step_bytes=host_step,
        disk_step_bytes=disk_step_bytes(architecture, workload),
        grouped=workload.quantization is Quantization.INT4_GROUPED,
        float32=compute == 4,
        float8=style.float8,
        compiled=style.compiled,
        is_cpu=workload.accelerator == "cpu",
    )
    return _with_generation(work, architecture, workload, layer) if workload.generates else work


def _with_generation(work: Work, architecture: Architecture, workload: Workload, layer: LayerCost) -> Work:
    """Return the work with the generation of its answers, which have half their length on average meanwhile, and of the reward models."""
    answers, compute = workload.sequences * workload.accumulation, workload.numerics.compute
    cached = cached_width(architecture)
    before = workload.sequence_length - workload.answer_tokens / 2
    return work._replace(
        scoring_flops=2.0 * workload.reward_parameters * workload.tokens * workload.accumulation,
        generated_tokens=workload.answer_tokens,
        pass_bytes=float(compute * (architecture.parameters + cached * before * answers)),
        pass_flops=2.0 * answers * (layer.matrix_elements + architecture.hidden * architecture.vocabulary),
        pass_kernels=float(layer.kernels),
        # FSDP 2 gathers every layer for every token; ZeRO-3 the whole model once (TRL 1.16), which is little beside it.
        pass_gathered_bytes=work.gathered_bytes / work.passes if workload.strategy is Strategy.FSDP else 0.0,
    )


@derived(but=("sequence_length", "autocasts"))
def _sum_of_layers(architecture: Architecture, workload: Workload, style: KernelStyle) -> LayerCost:
    costs = [(layer_cost(block, architecture, workload, style), block.copies) for block in architecture.blocks]
    return LayerCost(
        matrix_elements=sum(cost.matrix_elements * copies for cost, copies in costs),
        stored_elements=sum(cost.stored_elements * copies for cost, copies in costs),
        matrix_io=sum(cost.matrix_io * copies for cost, copies in costs),
        attention_flops=sum(cost.attention_flops * copies for cost, copies in costs),
        elementwise_bytes=sum(cost.elementwise_bytes * copies for cost, copies in costs),
        kernels=sum(cost.kernels * copies for cost, copies in costs),
    )


def _recomputed(workload: Workload, style: KernelStyle) -> float:
    if style.recomputed is not None:
        return style.recomputed
    return 0.0 if workload.checkpointing is Checkpointing.NONE else 1.0


def _reached(architecture: Architecture, workload: Workload) -> float:
    """Share of the layers that the backward pass goes through: it ends at the first trained one."""
    if workload.tuning is Tuning.FREEZE:
        return min(workload.trained_layers / architecture.layers, 1.0)
    return 1.0


def _trained_share(workload: Workload) -> float:
    """Share of the layers' weights whose gradients are computed, of those that the backward pass reaches."""
    if workload.tuning is Tuning.SPECTRUM:
        return workload.trained_fraction
    return 1.0 if workload.tuning in (Tuning.FULL, Tuning.FREEZE) else 0.0


def _head_products(workload: Workload) -> float:
    """Forward, to inputs, and to weights where the head is trained; checkpointing covers the layers only."""
    return 3.0 if workload.trains_base or workload.trained_embeddings else 2.0


def _weight_traffic(architecture: Architecture, workload: Workload, forward: float) -> float:
    """Casts of float32 weights under autocast (4 + 2 bytes a pass, and of their gradients), and gradients added up over micro-batches."""
    trained = trainable_parameters(architecture, workload)
    total = 6.0 * trained * (forward + 1.0) if workload.autocasts and workload.trains_base else 0.0
    if workload.accumulation > 1:
        total += 3.0 * workload.numerics.trained * trained / workload.shards
    return total
