"""The work queue between events and `reconcile`: each key at most once in it, and never with two workers at a time.

The semantics are client-go's. A key that is added while a worker has it is marked dirty and handed out again when that
worker says `done`, so that no change is lost and none is worked on twice at the same time. Time and randomness are
passed in: tests run in virtual time.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_DELAY_SECONDS: Final = 0.5
MAXIMUM_DELAY_SECONDS: Final = 300.0


class MonotonicClock(Protocol):
    """Seconds that never jump, and a sleep that follows them."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


def backoff_seconds(failures: int, jitter: float) -> float:
    """Return how long to wait after so many failures in a row; `jitter` in [0, 1) spreads it over the upper half."""
    # 2**10 * 0.5 is above the maximum already; the exponent is bounded because floats overflow at 2**1024.
    full = min(MAXIMUM_DELAY_SECONDS, BASE_DELAY_SECONDS * 2.0 ** min(max(failures - 1, 0), 10))
    return full * (0.5 + jitter / 2) if failures > 1 else full


class QueueClosed(Exception):
    """The queue was closed: workers end."""


class WorkQueue(Generic[Key]):
    """A deduplicating queue with delayed adds and backoff.

    | call | meaning |
    |---|---|
    | `add(key)` | work on it soon |
    | `add_after(key, seconds)` | work on it then; of several delays the earliest wins |
    | `retry(key)` | it failed: work on it after its backoff |
    | `forget(key)` | it succeeded: the next failure starts at the shortest backoff |
    | `get()` / `done(key)` | a worker takes a key / gives it back |
    """

    def __init__(
        self,
        clock: MonotonicClock,
        *,
        jitter: Callable[[], float] = random.random,
        on_depth: Callable[[int], None] = lambda depth: None,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._on_depth = on_depth
        self._on_wait = on_wait
        self._ready: deque[Key] = deque()
        self._waiting_since: dict[Key, float] = {}  # every key that is dirty: in _ready, or being worked on again later
        self._processing: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []  # may hold outdated entries; _due decides
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the key that has waited longest has been waiting; the liveness probe reads it."""
        if not self._ready:
            return 0.0
        return self._clock.monotonic() - self._waiting_since[self._ready[0]]

    def add(self, key: Key) -> None:
        """Ask for `key` to be worked on; any delayed add of it is fulfilled by this one."""
        self._due.pop(key, None)
        if key in self._waiting_since or self._closed:
            return
        self._waiting_since[key] = self._clock.monotonic()
        if key not in self._processing:
            self._enqueue(key)

    def add_after(self, key: Key, seconds: float | None) -> None:
        """Ask for `key` after `seconds`; None asks for nothing, zero or less is `add`."""
        if seconds is None or self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        if key in self._waiting_since:
            return  # it will be worked on earlier than that, and then decide on its next time itself
        due = self._clock.monotonic() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._changed.set()

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """Ask for `key` after its backoff, or `at_least` seconds; return the delay."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = max(at_least, backoff_seconds(failures, self._jitter()))
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """Reset the backoff of `key`."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Wait for a key and take it; the caller must give it back with `done`.

        Raises:
            QueueClosed: the queue was closed.
        """
        while True:
            if self._closed:
                raise QueueClosed
            self._promote_due()
            if self._ready:
                break
            self._changed.clear()
            await self._wait()
        key = self._ready.popleft()
        self._on_wait(self._clock.monotonic() - self._waiting_since.pop(key))
        self._processing.add(key)
        self._on_depth(len(self._ready))
        if self._ready:
            self._changed.set()  # one Event serves all workers: pass the wake-up on
        return key

    def done(self, key: Key) -> None:
        """Give `key` back; when it was added meanwhile, it is ready again at once."""
        self._processing.discard(key)
        if key in self._waiting_since and not self._closed:
            self._enqueue(key)

    def close(self) -> None:
        """End all workers that wait, and accept nothing more."""
        self._closed = True
        self._changed.set()

    def _enqueue(self, key: Key) -> None:
        self._ready.append(key)
        self._on_depth(len(self._ready))
        self._changed.set()

    def _promote_due(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)

    async def _wait(self) -> None:
        """Return when something was added or the next delayed add is due."""
        if not self._heap:
            await self._changed.wait()
            return
        waiter = asyncio.ensure_future(self._changed.wait())
        sleeper = asyncio.ensure_future(self._clock.sleep(max(0.0, self._heap[0][0] - self._clock.monotonic())))
        try:
            await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            sleeper.cancel()
