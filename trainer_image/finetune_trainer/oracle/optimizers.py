"""The optimizers a setting can name, on fake parameters."""

from __future__ import annotations

from typing import Any

import torch

from finetune_trainer.oracle.setting import TracedOptimizer, TraceSetting


def make_optimizer(setting: TraceSetting, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer over `parameters`."""
    if setting.optimizer is TracedOptimizer.SGD:
        return torch.optim.SGD(parameters, lr=1e-3, foreach=True)
    if setting.optimizer is TracedOptimizer.ADAFACTOR:
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    fused = setting.optimizer is TracedOptimizer.ADAMW_FUSED
    return torch.optim.AdamW(parameters, lr=1e-3, fused=fused or None, foreach=not fused or None)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the optimizer's state; step counts are on the GPU only where the optimizer is fused, and negligible."""
    found: list[torch.Tensor] = []
    for state in optimizer.state.values():
        entries: dict[str, Any] = state
        found.extend(value for value in entries.values() if isinstance(value, torch.Tensor))
    return found
