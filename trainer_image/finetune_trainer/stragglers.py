"""Which rank makes its peers wait: pure but for the small watch at the end. It is told, never killed.

Ranks meet several times in a step, so that each one's steps last as long as the slowest one's; only what a rank spends by itself tells it apart
(own_time.py). A slow one has a throttled GPU, a busy neighbour, a slow disk: a person or the cluster must act, and the training still goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

STEPS_COMPARED: Final = 20
"""Batches differ in length; their median over so many steps does not."""
SLOW_RATIO: Final = 1.5
RECOVERED_RATIO: Final = 1.25
LEAST_SHARE: Final = 0.1
"""Of a step's time: a rank that takes twice as long for what is nothing costs nobody anything."""
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True)
class Straggler:
    """A rank that is slower than its peers."""

    rank: int
    own_seconds: float
    """Median of what it spends by itself in a step."""
    usual_seconds: float
    """Median of its peers' medians."""
    step_seconds: float

    @property
    def ratio(self) -> float:
        """How many times as long it takes."""
        return self.own_seconds / max(self.usual_seconds, 1 / _MICROSECONDS)

    @property
    def share(self) -> float:
        """The part of each step in which its peers wait for it."""
        return (self.own_seconds - self.usual_seconds) / max(self.step_seconds, 1 / _MICROSECONDS)


def compare(own: Sequence[Sequence[float]], step_seconds: float) -> tuple[Straggler, ...]:
    """Return every rank against its peers, from what each rank spent by itself in the last steps; nothing for a single rank."""
    medians = [median(times) for times in own]
    if len(medians) < 2:
        return ()
    return tuple(
        Straggler(rank, mine, median(medians[:rank] + medians[rank + 1 :]), step_seconds)
        for rank, mine in enumerate(medians)
    )


def find_straggler(ranks: Sequence[Straggler], known: int | None = None) -> Straggler | None:
    """Return the rank that costs the others most, if one takes half as long again as they and a tenth of every step goes into waiting for it.

    A `known` one stays one until it takes less than a quarter longer: it must not come and go with every look.
    """
    slow = [
        rank
        for rank in ranks
        if rank.share >= LEAST_SHARE and rank.ratio >= (RECOVERED_RATIO if rank.rank == known else SLOW_RATIO)
    ]
    return max(slow, key=lambda rank: rank.own_seconds, default=None)


class PeerWatch:
    """What this rank hears of all ranks' own times, at the end of each step."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        on_look: Callable[[Straggler, Straggler | None], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank, self._world_size, self._on_look, self._clock = rank, world_size, on_look, clock
        self._own: list[deque[float]] = [deque(maxlen=STEPS_COMPARED) for _ in range(world_size)]
        self._steps: deque[float] = deque(maxlen=STEPS_COMPARED)
        self._last = clock()
        self._heard = 0
        self._known: Straggler | None = None

    def tell(self, seconds: float) -> list[int]:
        """Return one number per rank, this rank's in its place: the highest of all ranks' numbers are then everybody's."""
        numbers = [0] * self._world_size
        numbers[self._rank] = round(seconds * _MICROSECONDS)
        return numbers

    def hear(self, numbers: Sequence[int]) -> None:
        """Take what all ranks told, and look after every 20 steps; `on_look` hears this rank's comparison and the straggler."""
        if self._world_size < 2:
            return
        for times, number in zip(self._own, numbers, strict=True):
            times.append(number / _MICROSECONDS)
        now = self._clock()
        self._steps.append(now - self._last)
        self._last = now
        self._heard += 1
        if self._heard % STEPS_COMPARED == 0:
            ranks = compare(self._own, median(self._steps))
            self._known = find_straggler(ranks, self._known.rank if self._known else None)
            self._on_look(ranks[self._rank], self._known)
