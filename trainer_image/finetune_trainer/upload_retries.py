"""A store that does not answer, or refuses for a while, delays a checkpoint and nothing else: it is tried again until a newer one takes its place.

obstore's own retries are short and know only what it takes for temporary. A bucket that is read-only, credentials that are being rotated, a
policy that somebody mends: all look final, and are over some minutes later. Training goes on meanwhile, so that trying costs nothing but the
staged copy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_trainer.storage_errors import AlreadyExists, StorageError

_T = TypeVar("_T")


@dataclass(frozen=True)
class UploadPatience:
    """How long a checkpoint is tried again, in seconds since its first failure; the pauses in between double."""

    seconds: float = 600.0
    first_pause: float = 1.0
    longest_pause: float = 30.0


class UploadRetries:
    """The retries of one checkpoint, shared by the threads that send its files."""

    def __init__(self, patience: UploadPatience, on_retry: Callable[[str], None] = lambda problem: None) -> None:
        self._patience, self._on_retry = patience, on_retry
        self._given_up = threading.Event()
        self._first_failure: float | None = None

    @property
    def has_failed(self) -> bool:
        """Something had to be tried again: the store is in trouble."""
        return self._first_failure is not None

    def give_up(self) -> None:
        """Let the next failure be the last: a newer checkpoint is due."""
        self._given_up.set()

    def run(self, action: Callable[[], _T]) -> _T:
        """Return what the action does, tried again while the store refuses or fails; the last failure is raised."""
        pause = self._patience.first_pause
        while True:
            try:
                return action()
            except AlreadyExists:
                raise
            except StorageError as error:
                now = time.monotonic()
                self._first_failure = self._first_failure or now
                if self._given_up.is_set() or now + pause - self._first_failure > self._patience.seconds:
                    raise
                self._on_retry(f"{error} (once more in {pause:.3g} s)")
                self._given_up.wait(pause)
                pause = min(2 * pause, self._patience.longest_pause)
