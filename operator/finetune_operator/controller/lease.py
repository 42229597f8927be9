"""Leader election on a `coordination.k8s.io` Lease: at most one replica reconciles, and it knows when it may no longer.

The official client has an elector, but it measures by wall clock, waits for requests without limit and does not release
the Lease. This one measures by monotonic time, and what counts for its own deadline is when a renewal was *sent*: a
renewal that hangs cannot make two leaders. Whoever loses the Lease ends the process, because work that is under way
could not be taken back otherwise. Other replicas' clocks do not matter: they wait a whole lease duration after they last
*saw* the record change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from finetune_operator.controller.clock import Clock, micro_timestamp
from finetune_operator.controller.kube import LEASES, Api, ApiError, Body, Conflict, NotFound

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RELEASED_DURATION_SECONDS: Final = 1


@dataclass(frozen=True)
class LeaseSettings:
    """Where the Lease is and how long things take; the durations are client-go's."""

    namespace: str
    name: str
    identity: str
    duration_seconds: float = 15.0
    """Others wait so long after the last renewal that they saw."""
    renew_deadline_seconds: float = 10.0
    """The leader gives up when no renewal succeeded for so long; must be below the duration."""
    retry_seconds: float = 2.0
    """Between tries, of the leader and of those who wait."""


class LeaseLost(Exception):
    """This replica was the leader and may not be it any longer: the process must end."""


class LeaderElector:
    """One replica's side of the election: `acquire`, then `hold` beside the work, then `release`."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        settings: LeaseSettings,
        on_change: Callable[[bool], None] = lambda leading: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._settings = settings
        self._on_change = on_change
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self.leading = False

    async def acquire(self) -> None:
        """Return once this replica is the leader; an API server that is away only delays it."""
        while True:
            started = self._clock.monotonic()
            try:
                taken = await self._bounded(self._try_to_take(), self._settings.renew_deadline_seconds)
            except (ApiError, TimeoutError) as error:
                logger.warning("the lease could not be read or taken, trying again: %s", error)
                taken = False
            if taken:
                self._renewed_at = started
                self._set_leading(True)
                logger.info("this replica is the leader now", extra={"lease": self._settings.name})
                return
            await self._clock.sleep(self._settings.retry_seconds)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: another replica has it, or no renewal succeeded within the deadline.
        """
        while True:
            await self._clock.sleep(self._settings.retry_seconds)
            try:
                await self._renew()
            except LeaseLost:
                self._set_leading(False)
                raise

    async def release(self) -> None:
        """Let the next replica start at once; errors are logged, since the Lease runs out by itself."""
        if not self.leading:
            return
        self._set_leading(False)
        try:
            await self._bounded(self._give_up(), self._settings.retry_seconds)
        except (ApiError, TimeoutError) as error:
            logger.warning("the lease was not released and runs out by itself: %s", error)

    async def _give_up(self) -> None:
        lease = await self._read()
        if lease is not None and lease["spec"].get("holderIdentity") == self._settings.identity:
            spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": RELEASED_DURATION_SECONDS}
            await self._api.replace({**lease, "spec": spec})

    def _set_leading(self, leading: bool) -> None:
        self.leading = leading
        self._on_change(leading)

    async def _renew(self) -> None:
        """Try until one renewal succeeds or the deadline has passed."""
        deadline = self._renewed_at + self._settings.renew_deadline_seconds
        while True:
            started = self._clock.monotonic()
            remaining = deadline - started
            if remaining <= 0:
                raise LeaseLost(f"no renewal succeeded for {self._settings.renew_deadline_seconds} s")
            try:
                taken = await self._bounded(self._try_to_take(), remaining)
            except (ApiError, TimeoutError) as error:
                logger.warning("the lease was not renewed, trying again: %s", error)
            else:
                if not taken:
                    raise LeaseLost("another replica has taken the lease")
                self._renewed_at = started
                return
            await self._clock.sleep(min(self._settings.retry_seconds, max(0.0, deadline - self._clock.monotonic())))

    async def _bounded(self, work: Coroutine[Any, Any, Answer], seconds: float) -> Answer:
        """Do `work` within `seconds` of our own clock, whatever the client's time limit is."""
        attempt = asyncio.ensure_future(work)
        limit = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({attempt, limit}, return_when=asyncio.FIRST_COMPLETED)
            if attempt.done():
                return attempt.result()
            raise TimeoutError(f"no answer within {seconds:.1f} s")
        finally:
            attempt.cancel()
            limit.cancel()

    async def _read(self) -> Body | None:
        try:
            return await self._api.get(LEASES, self._settings.namespace, self._settings.name)
        except NotFound:
            return None

    async def _try_to_take(self) -> bool:
        lease = await self._read()
        if lease is None:
            await self._api.create(self._record({}, transitions=0))
            return True
        spec = lease.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock.monotonic()
        holder = spec.get("holderIdentity") or ""
        ours = holder == self._settings.identity
        if self.leading and not ours:
            return False
        duration = float(spec.get("leaseDurationSeconds") or self._settings.duration_seconds)
        if holder and not ours and self._clock.monotonic() < self._seen_at + duration:
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if ours else 1)
        try:
            await self._api.replace(self._record(lease, transitions))
        except Conflict:
            # Another replica was faster, or our own last write was carried out although its answer was lost: read again.
            return self.leading and await self._still_ours()
        return True

    async def _still_ours(self) -> bool:
        lease = await self._read()
        return lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._settings.identity

    def _record(self, lease: Body, transitions: int) -> Body:
        now = micro_timestamp(self._clock.now())
        old = lease.get("spec") or {}
        acquired = old.get("acquireTime") if old.get("holderIdentity") == self._settings.identity else now
        metadata = lease.get("metadata") or {"name": self._settings.name, "namespace": self._settings.namespace}
        spec = {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": int(self._settings.duration_seconds),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
