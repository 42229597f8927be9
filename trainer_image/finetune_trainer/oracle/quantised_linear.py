"""bitsandbytes' 4-bit linear layer as it allocates on a GPU (bitsandbytes 0.50.2, NF4 with double quantisation)."""

from __future__ import annotations

from typing import Any, Final

import bitsandbytes
import torch
import torch.nn.functional as F
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

BLOCK: Final = 64
"""Weights that share a scale."""
NESTED_BLOCK: Final = 256
"""Scales that share a scale."""


class _Quantised4bit(torch.autograd.Function):
    """x @ Wᵀ with W widened to the compute type for the length of one matrix product, forward and again backward; keeps no input.

    Source: bitsandbytes/autograd/_functions.py, MatMul4Bit. Above 1,536 rows (backends/cuda/ops.py) gemm_4bit widens the weight as well.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: TracedLinear4bit) -> torch.Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.widened(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.matmul(gradients[0], ctx.layer.widened(ctx.dtype)), None


class TracedLinear4bit(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """Stands in for `bitsandbytes.nn.Linear4bit`, which PEFT recognises; holds what a quantised weight holds."""

    def __init__(self, linear: torch.nn.Linear | Conv1D, compute_dtype: torch.dtype) -> None:
        inputs, outputs = linear.weight.shape if isinstance(linear, Conv1D) else linear.weight.shape[::-1]
        super().__init__(
            inputs,
            outputs,
            bias=linear.bias is not None,
            compute_dtype=compute_dtype,
            quant_type="nf4",
            device="meta",
        )
        if linear.bias is not None:
            self.bias = linear.bias

    def hold(self) -> None:
        """Allocate the quantised weight; inside the fake mode."""
        weights = self.in_features * self.out_features
        scales = -(-weights // BLOCK)
        self.packed: torch.Tensor | None = torch.empty((weights + 1) // 2, dtype=torch.uint8)
        self.scales = torch.empty(scales, dtype=torch.uint8)
        self.nested_scales = torch.empty(-(-scales // NESTED_BLOCK), dtype=torch.float32)
        self.codes = torch.empty(16), torch.empty(256), torch.empty(())

    def held(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that stay on the GPU."""
        packed = () if self.packed is None else (self.packed,)
        return (*packed, self.scales, self.nested_scales, *self.codes)

    def store_as_parameter(self) -> None:
        """Let FSDP2 spread the packed weight, which bitsandbytes keeps as a column of `quant_storage` (the trainer: bfloat16); scales stay whole."""
        column = torch.empty((-(-self.in_features * self.out_features // 4), 1), dtype=torch.bfloat16)
        self.weight, self.packed = torch.nn.Parameter(column, requires_grad=False), None

    def widened(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight in the compute type; its scales in float32 pass by."""
        scales = torch.empty(self.scales.shape[0], dtype=torch.float32)
        weight = torch.empty((self.out_features, self.in_features), dtype=dtype)
        del scales
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product in the type of `x`."""
        input_type = x.dtype
        out: Any = _Quantised4bit.apply(x.to(self.compute_dtype), self)  # type: ignore[no-untyped-call]
        return out.to(input_type)  # type: ignore[no-any-return]


TASK_HEADS: Final = ("classifier", "score")
"""PEFT trains them whole (task type SEQ_CLS), so nobody can quantise them."""


def quantise_linears(model: Any, compute_dtype: torch.dtype) -> None:
    """Replace the modules that transformers' bitsandbytes integration replaces: all linear ones but output embeddings and task heads."""
    left_out = [*get_keys_to_not_convert(model), *TASK_HEADS]
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            full_name = f"{path}.{name}".removeprefix(".")
            is_linear = type(child) is torch.nn.Linear or isinstance(child, Conv1D)
            if is_linear and should_convert_module(full_name, left_out):
                setattr(parent, name, TracedLinear4bit(child, compute_dtype))
