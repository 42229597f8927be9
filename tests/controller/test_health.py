"""The probes look at the work itself: a silent watch, a stuck queue or a blocked loop is told by name."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from finetune_operator.controller.health import Health, health_app
from finetune_operator.controller.kube import LEASES
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.testing import FakeApi, FakeClock, settle, timed_out


class Process:
    """A process to look at."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.wait = 0.0
        self.metrics = OperatorMetrics()
        self.health = Health(
            self.clock, resync_seconds=600, oldest_queue_wait_seconds=lambda: self.wait, reach_api=self.reach_api
        )

    async def reach_api(self) -> None:
        await self.api.get(LEASES, "operators", "finetune-operator")

    async def get(self, path: str) -> tuple[int, str]:
        async with TestClient(TestServer(health_app(self.health, self.metrics))) as client:
            response = await client.get(path)
            return response.status, await response.text()

    async def advance_with_ticks(self, seconds: float) -> None:
        task = asyncio.create_task(self.health.measure_loop_lag())
        await settle()
        await self.clock.advance(seconds)
        task.cancel()


async def test_a_process_that_works_is_alive() -> None:
    process = Process()
    process.health.watch("FineTuneJob")
    assert await process.get("/livez") == (200, "ok\n")


async def test_a_kind_that_was_neither_seen_nor_listed_for_two_resyncs_is_named() -> None:
    process = Process()
    process.health.watch("FineTuneJob")
    process.health.watch("Job")
    await process.advance_with_ticks(1199)
    process.health.seen("Job")
    assert process.health.liveness_problems() == []
    await process.advance_with_ticks(1)
    status, text = await process.get("/livez")
    assert status == 503
    assert text == "watch of FineTuneJob: nothing heard for 1200 s (limit 1200 s)\n"


async def test_a_standby_that_watches_nothing_is_alive() -> None:
    process = Process()
    await process.advance_with_ticks(5000)
    assert process.health.liveness_problems() == []


async def test_a_key_that_nobody_works_on_is_told() -> None:
    process = Process()
    process.wait = 300.0
    status, text = await process.get("/livez")
    assert status == 503
    assert "work queue: the oldest key has waited 300 s (limit 300 s)" in text


async def test_a_loop_that_was_blocked_is_told_until_it_wakes_in_time_again() -> None:
    process = Process()
    await process.clock.advance(6.5)  # nothing ran meanwhile
    status, text = await process.get("/livez")
    assert status == 503
    assert "event loop: woke 5.5 s late" in text
    await process.advance_with_ticks(2)
    assert (await process.get("/livez"))[0] == 200


async def test_the_leader_is_ready_without_asking_the_api_server() -> None:
    process = Process()
    process.health.set_leader(True)
    assert await process.get("/readyz") == (200, "ok\n")
    assert process.api.calls == []


async def test_a_standby_is_ready_while_it_reaches_the_api_server() -> None:
    process = Process()
    assert (await process.get("/readyz"))[0] == 200
    process.api.fail("get", timed_out())
    await process.clock.advance(5)
    status, text = await process.get("/readyz")
    assert status == 503
    assert text == "API server: Timeout: no answer within the time limit\n"


async def test_many_probes_share_one_request_to_the_api_server() -> None:
    process = Process()
    for _ in range(10):
        await process.get("/readyz")
    assert len(process.api.calls) == 1


async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    process = Process()
    process.metrics.leader.set(1)
    async with TestClient(TestServer(health_app(process.health, process.metrics))) as client:
        response = await client.get("/metrics")
        assert response.content_type == "text/plain"
        assert "finetune_operator_leader 1.0" in await response.text()


async def test_the_age_of_a_kind_is_what_the_metric_shows() -> None:
    process = Process()
    process.health.watch("Job")
    process.metrics.track_watch("Job", lambda: process.health.age_seconds("Job"))
    await process.clock.advance(7)
    labels = {"kind": "Job"}
    age = process.metrics.registry.get_sample_value("finetune_operator_watch_last_event_age_seconds", labels)
    assert age == 7.0
