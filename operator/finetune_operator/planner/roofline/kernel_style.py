"""What a training program does differently from plain PyTorch and transformers, as far as speed depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class KernelStyle:
    """How the kernels of a step are made. The trainer's are `PLAIN`; published measurements come from others as well."""

    compiled: bool = False
    """torch.compile: chains of elementwise operations are one kernel each."""
    fused: bool = False
    """Liger's or similar kernels for norms, rotary embedding and activation."""
    float8: bool = False
    """Matrix products of linear layers in float8."""
    flash: bool = False
    """The program brings a flash kernel for models whose attention torch's SDPA cannot do."""
    attention: float = 1.0
    """Speed of attention relative to FlashAttention-2."""
    recomputed: float | None = None
    """Share of the forward pass that is computed again in backward; None: as the workload's checkpointing says."""


PLAIN: Final = KernelStyle()
