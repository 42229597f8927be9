"""What one token costs in one block, forward: matrix products, attention, elementwise traffic and kernels.

Symbols: h hidden size, q and k widths of queries and keys, f MLP width, c bytes of the compute type. Traffic counts every tensor that a
kernel reads or writes, as transformers 5's modeling files compute it in eager mode, two bytes per element where not said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import Attention, Block, NormKind, Positions, Tensor, TensorClass
from finetune_operator.memory.kinds import AttentionKernel, Quantization, Tuning
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.roofline.kernel_style import KernelStyle

WRITTEN_OUT_NORM: Final = (36, 6)
"""Bytes per element and kernels of a norm in single operations: cast (2 + 4), square (4 + 4), mean (4), scale (4 + 4), cast (4 + 2), weight
(2 + 2), and statistics."""
FUSED_NORM: Final = (4, 1)
"""torch's LayerNorm."""
RESIDUAL_BYTES: Final = 12
"""Two sums: two tensors read, one written."""
ROTARY_BYTES: Final = 20
"""Per turned element of queries and keys: two products, negation, concatenation and sum."""
ROTARY_KERNELS: Final = 10
HEAD_COPY: Final = (4, 3)
"""Bytes per element of the attention's output and kernels: heads are put beside each other."""
GATE_BYTES: Final = 10
"""Per element of f: activation (2 + 2) and product (4 + 2)."""
ACTIVATION_BYTES: Final = 4
WRITTEN_OUT_ACTIVATION: Final = (24, 6)
"""gelu_new and its kind, beside the single kernel."""
EXPERT_BYTES: Final = 10
"""Per element of h and visited expert: gathered, weighted and added up."""
EXPERT_KERNELS: Final = 25
"""Routing, sorting, two grouped products and weighting, transformers 5."""
LOOPED_EXPERT_KERNELS: Final = 12
"""Per expert, whether a token visits it or not: transformers 4."""
SCORE_BYTES: Final = 26
"""Per score of eager attention: product (2), scaling and mask (2 × 4), softmax through float32 (12), product with the values (2), dropout's copy
(2)."""
EAGER_KERNELS: Final = 8
FUSED_TRAFFIC: Final = 0.35
"""Elementwise traffic that remains when chains of kernels are fused: what goes in and comes out (norm 4 of 36 bytes, rotary 4 of 20, gate 6 of
10, residuals and copies as before)."""
FUSED_KERNELS: Final = 0.4
COMPILED_KERNELS: Final = 0.3


@dataclass(frozen=True)
class LayerCost:
    """The forward pass of one block, or of all; operations and bytes per token."""

    matrix_elements: float
    """Weights that multiply a token: experts as far as they are routed to."""
    stored_elements: float
    """Weights that are read in one pass, all experts."""
    matrix_io: float
    """Elements of inputs and outputs of the matrix products."""
    attention_flops: float
    elementwise_bytes: float
    kernels: float


def layer_cost(block: Block, architecture: Architecture, workload: Workload, style: KernelStyle) -> LayerCost:
    """Return the cost of one copy of `block`."""
    matrices = [tensor for tensor in block.tensors if len(tensor.shape) >= 2 and tensor.kind is not TensorClass.NORM]
    visits = [(tensor, tensor.copies * _visited(block, tensor)) for tensor in matrices]
    linears = sum(tensor.copies for tensor in matrices if tensor.linear)
    traffic, kernels = _elementwise(block, architecture.hidden)
    if style.compiled or style.fused:
        traffic *= FUSED_TRAFFIC
        kernels *= COMPILED_KERNELS if style.compiled else FUSED_KERNELS
    flops, scores, attention_kernels = _attention(block.attention, workload, style)
    return LayerCost(
        matrix_elements=sum(tensor.elements * count for tensor, count in visits),
        stored_elements=float(sum(tensor.total for tensor in matrices)),
        matrix_io=sum(_io(tensor) * count for tensor, count in visits),
        attention_flops=flops,
        elementwise_bytes=(traffic + scores) * workload.numerics.compute / 2,
        kernels=kernels + attention_kernels + linears + _beside_products(workload, linears),
    )


def _visited(block: Block, tensor: Tensor) -> float:
    part = block.feed_forward
    if tensor.kind is not TensorClass.EXPERTS or part.every_expert_sees_every_token:
        return 1.0
    return part.experts_per_token / part.experts


def _io(tensor: Tensor) -> int:
    """Elements of input and output per token that visits the tensor; of stacked experts, of all."""
    stacked = tensor.shape[0] if len(tensor.shape) == 3 else 1
    return stacked * (tensor.shape[-1] + tensor.shape[-2])


def _elementwise(block: Block, hidden: int) -> tuple[float, float]:
    attention, part = block.attention, block.feed_forward
    norm_bytes, norm_kernels = FUSED_NORM if block.norm is NormKind.LAYER else WRITTEN_OUT_NORM
    traffic = float(block.norms * norm_bytes * hidden + RESIDUAL_BYTES * hidden + HEAD_COPY[0] * attention.output_width)
    kernels = float(block.norms * norm_kernels + 2 + HEAD_COPY[1])
    both = attention.query_width + attention.key_width
    if attention.positions is Positions.ROTARY:
        traffic += ROTARY_BYTES * attention.rotary_share * both
        kernels += ROTARY_KERNELS
    if attention.query_key_norm:
        traffic += norm_bytes * both
        kernels += 2 * norm_kernels
    visited = 0
    if part.experts:
        visited = part.experts if part.every_expert_sees_every_token else part.experts_per_token
        traffic += EXPERT_BYTES * hidden * visited
        kernels += LOOPED_EXPERT_KERNELS * part.experts if part.experts_are_linear else EXPERT_KERNELS
    width = part.width * max(visited, 1) + part.shared_width
    more_bytes, more_kernels = (0, 0) if part.fused_activation else WRITTEN_OUT_ACTIVATION
    traffic += ((GATE_BYTES if part.gated else ACTIVATION_BYTES) + more_bytes) * width
    return traffic, kernels + (2 if part.gated else 1) + more_kernels


def _attention(attention: Attention, workload: Workload, style: KernelStyle) -> tuple[float, float, float]:
    """Attention's products per token, its scores' traffic and its kernels. With a causal mask a token sees half of the sequence on average."""
    length, widths = workload.sequence_length, attention.query_width + attention.output_width
    if _is_eager(attention, workload, style):
        return 2.0 * widths * length, float(SCORE_BYTES * attention.heads * length), EAGER_KERNELS
    seen = length / 2 if attention.causal else length
    if attention.window:
        seen = min(seen, attention.window)
    return 2.0 * widths * seen, 0.0, 1


def _is_eager(attention: Attention, workload: Workload, style: KernelStyle) -> bool:
    if workload.attention is AttentionKernel.EAGER:
        return True
    if style.flash or (workload.attention is AttentionKernel.FLASH and attention.flash):
        return False
    return not attention.sdpa or attention.softcap or attention.sinks


def _beside_products(workload: Workload, linears: int) -> float:
    """Kernels beside the product itself in every linear module: dequantisation, and casts under autocast."""
    more = 3 * linears if workload.quantization is not Quantization.NONE else 0
    return more + (linears if workload.autocasts and workload.tuning is Tuning.FULL else 0)
