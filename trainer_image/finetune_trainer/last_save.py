"""Whether a pod that is being stopped has time for one more checkpoint, by what the uploads so far have taken: pure.

A checkpoint that is not committed when SIGKILL comes is worth nothing, and a pod that is killed cannot say how it ended. So a save that
cannot be done is not begun, and the log says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MARGIN_SECONDS: Final = 2.0
"""Kept for the copy, the commit and the end of the processes."""


@dataclass(frozen=True)
class Outlook:
    """What one rank knows of its part of another checkpoint."""

    bytes: int
    """What it would send: as much as the last time, and what is on its way already."""
    bytes_per_second: float | None
    """Of its last upload; None before the first one was done."""
    seconds_left: float | None
    """Until SIGKILL; None on ranks that were not told to stop, and where nobody says how long the grace period is."""

    @property
    def seconds(self) -> float:
        """How long it would take; 0 where nothing was measured."""
        return self.bytes / self.bytes_per_second if self.bytes_per_second else 0.0


@dataclass(frozen=True)
class Forecast:
    """What all ranks together make of it."""

    fits: bool
    sentence: str
    """For the log."""


def forecast(outlooks: Sequence[Outlook]) -> Forecast:
    """Return whether one more checkpoint can be committed in time; yes where nothing speaks against it."""
    left = min((outlook.seconds_left for outlook in outlooks if outlook.seconds_left is not None), default=None)
    slowest = max(outlooks, key=lambda outlook: outlook.seconds)
    if left is None:
        return Forecast(fits=True, sentence="one more checkpoint is saved; how long the grace period is, nobody says")
    if slowest.bytes_per_second is None:
        return Forecast(
            fits=True, sentence=f"one more checkpoint is tried: {left:.0f} s are left, and no upload was measured yet"
        )
    fits = slowest.seconds + MARGIN_SECONDS <= left
    measured = (
        f"{slowest.bytes} bytes of the slowest rank at {slowest.bytes_per_second:.3g} bytes/s, as its last upload had, "
        f"take {slowest.seconds:.1f} s, and {left:.1f} s of the grace period are left"
    )
    what = "one more checkpoint is saved" if fits else "there is no time for one more checkpoint"
    return Forecast(fits=fits, sentence=f"{what}: {measured}")
