"""Ends a rank in which nothing happens any more: a hang is the one failure that tells nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

HANG_SECONDS: Final = 1200.0
"""Below the 1,800 s after which collective calls give up (`ddp_timeout`): their error would name a peer, not the rank that is stuck."""


class Watchdog:
    """Calls `on_hang` when no beat came for `seconds`; nothing is watched before `start`."""

    def __init__(self, seconds: float, on_hang: Callable[[float], None]) -> None:
        self._seconds, self._on_hang = seconds, on_hang
        self._changed = threading.Condition()
        self._beats = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def beat(self) -> None:
        """Tell that something was finished."""
        with self._changed:
            self._beats += 1
            self._changed.notify()

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                before = self._beats
                if not self._changed.wait(self._seconds) and self._beats == before and not self._stopped:
                    break
            else:
                return
        self._on_hang(self._seconds)
