"""Ends a rank in which nothing happens any more: a hang is the one failure that tells nobody."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final

LONGEST_SECONDS: Final = 1200.0
"""While nothing is known of the steps, and while a checkpoint is written. Below the 1,800 s after which collective calls give up (`ddp_timeout`):
their error would name a peer, not the rank that is stuck."""
LEAST_SECONDS: Final = 120.0
STEPS_OF_PATIENCE: Final = 10
FEWEST_STEPS: Final = 3
"""The first steps compile kernels and fill caches."""
STEPS_REMEMBERED: Final = 50


def hang_seconds(recent: Sequence[float], *, least: float = LEAST_SECONDS) -> float:
    """Return after how long without a finished step a rank hangs, when the last steps took so many seconds: ten usual steps, 2 to 20 minutes.

    Steps of more than ten minutes get twice their time. `least` takes the place of the 2 minutes.
    """
    if len(recent) < FEWEST_STEPS:
        return LONGEST_SECONDS
    usual = median(recent)
    return max(least, min(STEPS_OF_PATIENCE * usual, LONGEST_SECONDS), 2 * usual)


class Watchdog:
    """Calls `on_hang` with the seconds that passed when nothing was finished for too long; nothing is watched before `start`.

    `on_wait` hears, each time something was finished, how many seconds it may take from now on.
    """

    def __init__(
        self,
        on_hang: Callable[[float], None],
        limit: Callable[[Sequence[float]], float] = hang_seconds,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._on_hang, self._limit, self._on_wait = on_hang, limit, on_wait
        self._changed = threading.Condition()
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._beats = 0
        self._is_saving = False
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def step(self, seconds: float) -> None:
        """Tell that a step was finished, and how long it took."""
        with self._changed:
            self._steps.append(seconds)
            self._beats += 1
            self._changed.notify()

    def beat(self) -> None:
        """Tell that something else was finished."""
        with self._changed:
            self._beats += 1
            self._changed.notify()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Be as patient as at the start meanwhile: a checkpoint of a large model takes longer than its steps."""
        self._set_saving(saving=True)
        try:
            yield
        finally:
            self._set_saving(saving=False)

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _set_saving(self, *, saving: bool) -> None:
        with self._changed:
            self._is_saving = saving
            self._beats += 1
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                before = self._beats
                seconds = self._limit(() if self._is_saving else tuple(self._steps))
                self._on_wait(seconds)
                if not self._changed.wait(seconds) and self._beats == before and not self._stopped:
                    break
            else:
                return
        self._on_hang(seconds)
