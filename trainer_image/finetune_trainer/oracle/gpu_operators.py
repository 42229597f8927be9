"""What runs differently on a GPU, so that a trace on fake CPU tensors allocates as CUDA would.

Fake tensors of device `cuda` run forward on a machine without a GPU, but autograd's engine asks the driver for a context. The trace
therefore uses device `cpu`, where torch takes other kernels in a few places. This mode puts the GPU's back:

- `scaled_dot_product_attention`: flash kernel (half precision, no mask, head width ≤ 256) or memory-efficient kernel, both of which keep
  query, key, value, output and a float32 per head and token; the mathematical one, which keeps every score, where CUDA has no other.
- `dropout`: a mask of one byte per element (native_dropout) instead of one in the input's type.
- `rms_norm`: one fused kernel.
- autocast: CUDA runs layer_norm, softmax, pow, sum, losses and others in float32 (ATen/autocast_mode.h, AT_FORALL_FP32); the CPU's list lacks them.
- `grouped_mm` of experts in float32: as transformers' own fallback, which allocates the same.
- `x[mask]` with a boolean mask: taken as if every element were chosen.

Not modelled: cuBLAS workspaces (8 to 32 MiB, `memory.runtime` has them), kernels that transformers would fetch from a hub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from finetune_trainer.oracle.peak_tracker import PeakTracker

aten: Final = torch.ops.aten
FLASH_HEAD_LIMIT: Final = 256
HALF: Final = (torch.bfloat16, torch.float16)


def _cast_to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in HALF:
        return value.float()
    return value


FLOAT32_UNDER_AUTOCAST: Final[frozenset[Callable[..., Any]]] = frozenset(
    {
        F.layer_norm,
        torch.layer_norm,
        F.rms_norm,
        torch.rms_norm,
        F.group_norm,
        F.cross_entropy,
        F.nll_loss,
        F.mse_loss,
        F.binary_cross_entropy_with_logits,
        F.softplus,
        F.cosine_similarity,
        torch.exp,
        torch.Tensor.exp,
        torch.log,
        torch.Tensor.log,
        torch.reciprocal,
        torch.rsqrt,
        torch.Tensor.rsqrt,
        torch.pow,
        torch.Tensor.pow,
        torch.Tensor.__pow__,
        torch.logsumexp,
        torch.Tensor.logsumexp,
    }
)
"""torch/include/ATen/autocast_mode.h of torch 2.13: AT_FORALL_FP32."""

FLOAT32_RESULT_UNDER_AUTOCAST: Final[frozenset[Callable[..., Any]]] = frozenset(
    {
        torch.softmax,
        torch.Tensor.softmax,
        F.softmax,
        torch.log_softmax,
        torch.Tensor.log_softmax,
        F.log_softmax,
        torch.cumsum,
        torch.Tensor.cumsum,
        torch.prod,
        torch.Tensor.prod,
        torch.sum,
        torch.Tensor.sum,
    }
)
"""The same file's AT_FORALL_FP32_SET_OPT_DTYPE: the result's type becomes float32 unless the caller names one."""


class GpuOperators(TorchFunctionMode):
    """Replaces CPU implementations by what CUDA would run; enter it outside the tracker's dispatch mode."""

    def __init__(self, tracker: PeakTracker, *, kernel_workspace: bool) -> None:
        super().__init__()
        self._tracker = tracker
        self._kernel_workspace = kernel_workspace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype is torch.bool:
            return _choose_all(args[0], args[1])
        if torch.is_autocast_enabled("cpu"):
            if func in FLOAT32_UNDER_AUTOCAST:
                args = tuple(_cast_to_float32(value) for value in args)
                kwargs = {name: _cast_to_float32(value) for name, value in kwargs.items()}
            elif func in FLOAT32_RESULT_UNDER_AUTOCAST and args[0].dtype in HALF and kwargs.get("dtype") is None:
                kwargs["dtype"] = torch.float32
        if func is torch._grouped_mm and args[1].dtype is not torch.bfloat16:
            # CUDA multiplies group by group into one output; torch's shape rule knows bfloat16 only.
            return torch.ops.transformers.grouped_mm_fallback(args[0], args[1], kwargs["offs"])
        if func in (F.rms_norm, torch.rms_norm):
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            compute = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(compute), key.to(compute), value.to(compute)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(compute)
        width, same_heads = query.shape[-1], key.shape[1] == query.shape[1]
        takes_flash = attn_mask is None and query.dtype in HALF and width <= FLASH_HEAD_LIMIT
        if takes_flash and value.shape[-1] == width and (same_heads or enable_gqa):
            return self._flash(query, key, value, dropout_p, is_causal, scale)
        if not same_heads:
            # ATen's check_batch_size_and_num_heads_dense: no fused kernel spreads one head over many by itself.
            if enable_gqa:
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            return self._mathematical(query, key, value, attn_mask, dropout_p, is_causal, scale)
        return self._efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)

    def _mathematical(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout: float,
        is_causal: bool,
        scale: float | None,
    ) -> torch.Tensor:
        """ATen's _scaled_dot_product_attention_math: in float32, scores as tensors; _safe_softmax makes a second result and a mask inside."""
        kind, factor = query.dtype, (scale or query.shape[-1] ** -0.5) ** 0.5
        if is_causal:
            mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        if mask is not None and mask.dtype is torch.bool:
            mask = torch.where(mask, 0.0, float("-inf")).to(kind)
        with torch.autocast("cpu", enabled=False):
            query, key, value = query.float(), key.float(), value.float()
            scores = (query * factor) @ (key.transpose(-2, -1) * factor)
            if mask is not None:
                scores.add_(mask)
            self._tracker.passing(9 * scores.numel())
            weights = _dropout(aten._safe_softmax(scores, -1), dropout)
            out = (weights @ value).to(kind)
        if kind in HALF:
            self._tracker.passing(2 * weights.numel())  # the weights in the caller's type, which nobody uses
        return out

    def _flash(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        dropout: float,
        is_causal: bool,
        scale: float | None,
    ) -> torch.Tensor:
        width = query.shape[-1]
        if width % 8:
            # ATen's sdp_utils pads narrow heads to a multiple of eight.
            missing = 8 - width % 8
            query, key, value = (F.pad(each, (0, missing)) for each in (query, key, value))
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout, is_causal, False, scale=scale or width**-0.5
        )[0]
        if self._kernel_workspace and out.requires_grad:
            self._watch_backward(out, _flash_workspace(query, key))
        return out[..., :width]  # type: ignore[no-any-return]

    def _efficient(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout: float,
        is_causal: bool,
        scale: float | None,
    ) -> torch.Tensor:
        if mask is not None:
            if mask.dtype is torch.bool:
                mask = torch.where(mask, 0.0, float("-inf")).to(query.dtype)
            mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        keeps = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, keeps, dropout, is_causal, scale=scale
        )[0]
        if self._kernel_workspace and out.requires_grad:
            self._watch_backward(out, _efficient_workspace(query))
        return out  # type: ignore[no-any-return]

    def _watch_backward(self, out: torch.Tensor, nbytes: int) -> None:
        """Count a kernel's workspace when its backward runs."""
        tracker = self._tracker
        out.grad_fn.register_prehook(lambda _: tracker.passing(nbytes))  # type: ignore[union-attr]


def _flash_workspace(query: torch.Tensor, key: torch.Tensor) -> int:
    """Return what flash attention 2's backward allocates inside.

    The gradient of the query in float32, one float32 per head and row, and with grouped heads the gradients of keys and values for every
    head (flash_api.cpp, mha_bwd: dq_accum, softmax_d, dk_expanded, dv_expanded).
    """
    batch, heads, rows, width = query.shape
    rounded_rows, rounded_width = -(-rows // 128) * 128, -(-width // 32) * 32
    total = 4 * batch * heads * rounded_rows * (rounded_width + 1)
    if key.shape[1] != heads:
        total += 2 * query.element_size() * batch * heads * key.shape[2] * width
    return total


def _efficient_workspace(query: torch.Tensor) -> int:
    """The memory-efficient kernel's backward: the query's gradient in float32 and one float32 per head and row (delta)."""
    batch, heads, rows, width = query.shape
    return 4 * batch * heads * rows * (width + 1)


def _dropout(
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


def _rms_norm(
    input: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    return aten._fused_rms_norm(input, list(normalized_shape), weight, eps)[0]  # type: ignore[no-any-return]


def _choose_all(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Index with the positions of all elements: one int64 per dimension and position, as nonzero() gives them."""
    positions = torch.zeros((mask.dim(), mask.numel()), dtype=torch.int64, device=tensor.device)
    return tensor[tuple(positions.unbind(0))]
