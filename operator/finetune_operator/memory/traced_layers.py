"""Layers that were measured, because no family describes them: bytes instead of a programme."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TracedLayer:
    """What one layer needed when it was traced (api/architecture_trace.py). Bytes per token, and per pair of tokens."""

    kept: tuple[int, int]
    """Kept from the forward to the backward pass."""
    backward: tuple[int, int]
    """Made at the highest moment of the backward pass, beyond what is kept."""


@dataclass(frozen=True)
class TracedActivations:
    """The four ways of training in which a layer was traced. Adapters, of `rank`, were on all linear modules."""

    full: TracedLayer
    full_autocast: TracedLayer
    adapted: TracedLayer
    adapted_autocast: TracedLayer
    rank: int

    def of(self, *, trains_weights: bool, autocasts: bool) -> TracedLayer:
        """Return one of them."""
        if trains_weights:
            return self.full_autocast if autocasts else self.full
        return self.adapted_autocast if autocasts else self.adapted
