"""How often something may happen: a token bucket per key, in virtual or real time, for a bounded number of keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from finetune_operator.controller.clock import Clock


class RateLimit:
    """Allows `burst` at once and `per_second` in the long run, for each key by itself."""

    def __init__(self, clock: Clock, *, per_second: float, burst: int, capacity: int = 16_384) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._capacity = capacity
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def allows(self, key: Hashable) -> bool:
        """Say whether one more is allowed now, and count it if so."""
        now = self._clock.monotonic()
        left, since = self._buckets.pop(key, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed
