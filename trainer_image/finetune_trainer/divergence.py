"""Whether a training has diverged, from its losses alone: pure.

A loss that is not a number says so itself. One that explodes and stays finite does not, and would be trained on and saved over the good
checkpoints for hours. Single spikes are normal (a hard batch, a short one) and pass by themselves, so that only a loss that stays far
above what it was counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

STEPS_OF_EXPLOSION: Final = 10
"""So many in a row. A spike of a fine-tuning lasts one to a few steps."""
STEPS_REMEMBERED: Final = 100
FEWEST_STEPS: Final = 20
"""Before that, nothing is known of what is usual: the first steps are warm-up."""
FACTOR: Final = 3.0
LEAST_RISE: Final = 2.0
"""Nats. Of a loss near 0 three times as much is no news."""
LARGEST_RISE: Final = 5.0
"""Nats. From 4 the threefold would be 12, more than guessing blindly costs (the logarithm of the vocabulary, 10.4 for 32,000 words)."""


@dataclass(frozen=True)
class LossWatch:
    """What is known of the losses so far."""

    usual: tuple[float, ...] = ()
    """The last ones that were not suspect, oldest first."""
    streak: int = 0
    """How many suspect ones came last."""

    @property
    def limit(self) -> float | None:
        """The loss above which a step is suspect; None while too few are known."""
        if len(self.usual) < FEWEST_STEPS:
            return None
        middle = median(self.usual)
        return middle + min(max((FACTOR - 1) * middle, LEAST_RISE), LARGEST_RISE)

    @property
    def has_exploded(self) -> bool:
        """The loss stays far above what it was."""
        return self.streak >= STEPS_OF_EXPLOSION

    def after(self, loss: float) -> LossWatch:
        """Return what is known after one more step; suspect losses do not shift what is usual."""
        if self.limit is not None and not loss <= self.limit:
            return replace(self, streak=self.streak + 1)
        return LossWatch((*self.usual, loss)[-STEPS_REMEMBERED:])


@dataclass
class LossGuard:
    """A rank's watch over its losses, which are the same on all ranks, and what follows for checkpoints."""

    watch: LossWatch = field(default_factory=LossWatch)
    last_usual_step: int = 0
    """A checkpoint of an earlier step is proven: its weights have made a usual loss."""
    is_withholding: bool = False
    """A checkpoint was due and not written, since its weights may be ruined."""

    @property
    def is_suspect(self) -> bool:
        """The last loss was far above what is usual."""
        return self.watch.streak > 0

    def resume(self, losses: Iterable[float]) -> None:
        """Go on from the losses that a checkpoint remembers."""
        for loss in losses:
            self.watch = self.watch.after(loss)

    def explosion(self, step: int, loss: float) -> str | None:
        """Return what is wrong where the loss stays far above what it was; that of `step` was heard last."""
        if not self.watch.has_exploded:
            return None
        return (
            f"the loss was above {self.watch.limit:.3g} for {self.watch.streak} steps, up to step {step} ({loss:.3g}), "
            f"after a median of {median(self.watch.usual):.3g} (training.stopOnDivergence)"
        )

    def hear(self, step: int, loss: float) -> None:
        """Take a step's loss."""
        self.watch = self.watch.after(loss)
        if not self.is_suspect:
            self.last_usual_step = step


def not_finite(step: int, loss: float, gradient_norm: float | None) -> str | None:
    """Return which of a step's numbers is none."""
    values = (("loss", loss), ("gradient norm", gradient_norm))
    return next(
        (
            f"the {what} of step {step} is not finite"
            for what, value in values
            if value is not None and not math.isfinite(value)
        ),
        None,
    )
