"""Muon for the matrices inside the layers and AdamW for everything else, as one optimizer with one state that checkpoints as any other does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon (arXiv 2502.16982: steps scaled to AdamW's size, so that AdamW's learning rates hold) and torch's fused AdamW.

    Both work on this optimizer's own groups and states, which are therefore what a scheduler changes and a checkpoint has.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, outside: frozenset[int] = frozenset()) -> None:
        """Sort the parameters of `params`, groups as the Trainer makes them; those in `outside` (by id) are AdamW's, whatever their shape."""

        def split(is_matrix: bool) -> list[dict[str, Any]]:
            found = (
                {**group, "params": [p for p in group["params"] if (p.ndim == 2 and id(p) not in outside) == is_matrix]}
                for group in groups
            )
            return [group for group in found if group["params"]]

        groups = [dict(group) for group in params]
        matrices, others = split(True), split(False)
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.999), fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:end], self.state
            start = end

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a loaded state, which comes in new groups."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step both; a closure is not for them."""
        if closure is not None:
            raise TypeError("MuonWithAdamW.step takes no closure")
        for part in self._parts:
            part.step()


def outside_layers(model: Any) -> frozenset[int]:
    """Return the ids of embedding and head, which Muon is not for (arXiv 2502.16982, §2.2)."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return frozenset(id(parameter) for part in parts if part is not None for parameter in part.parameters())
