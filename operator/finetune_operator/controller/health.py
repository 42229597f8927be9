"""/livez, /readyz and /metrics on a plain port: whether this process still does its work, not whether it can answer.

A watch that died silently, a worker that hangs and an event loop that is blocked all leave the HTTP server alive. So the
probe looks at their traces: when was a kind last heard of, how long has the oldest key waited, how late does the loop wake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from finetune_operator.controller.clock import Clock
from finetune_operator.controller.kube import ApiError, NotFound
from finetune_operator.controller.metrics import PROMETHEUS_CONTENT_TYPE, OperatorMetrics

MAXIMUM_LOOP_LAG_SECONDS: Final = 5.0
MAXIMUM_QUEUE_WAIT_SECONDS: Final = 300.0
RESYNCS_MISSED: Final = 2
_TICK_SECONDS: Final = 1.0
_REACHABLE_SECONDS: Final = 5.0
"""How long one answer about the API server counts: probes of several kubelets and load balancers share it."""


class Health:
    """What the probes look at. Tell it what happens (`seen`, `set_leader`) and run `measure_loop_lag` beside the work."""

    def __init__(
        self,
        clock: Clock,
        *,
        resync_seconds: float,
        oldest_queue_wait_seconds: Callable[[], float],
        reach_api: Callable[[], Awaitable[object]],
    ) -> None:
        self._clock = clock
        self._maximum_age = RESYNCS_MISSED * resync_seconds
        self._oldest_wait = oldest_queue_wait_seconds
        self._reach_api = reach_api
        self._leading = False
        self._last_seen: dict[str, float] = {}
        self._last_tick = clock.monotonic()
        self._last_lag = 0.0
        self._reached: tuple[float, str] | None = None

    def watch(self, kind: str) -> None:
        """Expect events or listings of a kind from now on."""
        self.seen(kind)

    def seen(self, kind: str) -> None:
        """Note an event or a listing of a kind."""
        self._last_seen[kind] = self._clock.monotonic()

    def set_leader(self, leading: bool) -> None:
        """Note whether this replica reconciles."""
        self._leading = leading

    def age_seconds(self, kind: str) -> float:
        """Return the seconds since `kind` was last heard of; 0 when it is not watched."""
        now = self._clock.monotonic()
        return now - self._last_seen.get(kind, now)

    async def measure_loop_lag(self) -> None:
        """Note for ever how late the event loop wakes this task."""
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            now = self._clock.monotonic()
            self._last_lag = max(0.0, now - self._last_tick - _TICK_SECONDS)
            self._last_tick = now

    def liveness_problems(self) -> list[str]:
        """Return why this process should be restarted; nothing when it is well."""
        problems = []
        lag = max(self._last_lag, self._clock.monotonic() - self._last_tick - _TICK_SECONDS)
        if lag >= MAXIMUM_LOOP_LAG_SECONDS:
            problems.append(f"event loop: woke {lag:.1f} s late (limit {MAXIMUM_LOOP_LAG_SECONDS:.0f} s)")
        wait = self._oldest_wait()
        if wait >= MAXIMUM_QUEUE_WAIT_SECONDS:
            problems.append(
                f"work queue: the oldest key has waited {wait:.0f} s (limit {MAXIMUM_QUEUE_WAIT_SECONDS:.0f} s)"
            )
        for kind in sorted(self._last_seen):
            age = self.age_seconds(kind)
            if age >= self._maximum_age:
                problems.append(f"watch of {kind}: nothing heard for {age:.0f} s (limit {self._maximum_age:.0f} s)")
        return problems

    async def readiness_problem(self) -> str:
        """Return why this replica cannot take requests; empty when it can.

        The leader has renewed its Lease within seconds, so that it need not ask the API server again.
        """
        if self._leading:
            return ""
        now = self._clock.monotonic()
        if self._reached is None or now - self._reached[0] >= _REACHABLE_SECONDS:
            try:
                await self._reach_api()
                answer = ""
            except NotFound:
                answer = ""  # it answers; what was asked for need not exist (the Lease before the first election)
            except ApiError as error:
                answer = f"API server: {error}"
            self._reached = (now, answer)
        return self._reached[1]


def health_app(health: Health, metrics: OperatorMetrics) -> web.Application:
    """Return the app that serves the probes and the metrics."""

    async def livez(_: web.Request) -> web.Response:
        problems = health.liveness_problems()
        return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    async def readyz(_: web.Request) -> web.Response:
        problem = await health.readiness_problem()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": PROMETHEUS_CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return app
