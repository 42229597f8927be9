"""Virtual time: tests advance it, and whatever slept until then runs."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

_SETTLE_ROUNDS = 50
"""How many turns of the event loop we give to whatever was woken before time goes on."""


async def settle() -> None:
    """Let every task run until it waits for something; no time passes."""
    for _ in range(_SETTLE_ROUNDS):
        await asyncio.sleep(0)


class FakeClock:
    """A clock that stands still until `advance`; wall-clock and monotonic time move together unless set apart."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._sequence = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the virtual time of day."""
        return self._now

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has gone so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._sequence, future))
        await future

    def jump_wall_clock(self, seconds: float) -> None:
        """Set the time of day forth or back, as NTP or a person does; no monotonic time passes."""
        self._now += timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        """Let time pass; sleepers wake in order, each at its own moment."""
        end = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move_to(due)
            if not future.done():
                future.set_result(None)
                await settle()
        self._move_to(end)
        await settle()

    def _move_to(self, moment: float) -> None:
        self._now += timedelta(seconds=moment - self._monotonic)
        self._monotonic = moment
