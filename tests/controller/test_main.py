"""The process: what the leader runs, what ends it, and in which order it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.kube import FINETUNE_JOBS, LEASES, Unavailable
from finetune_operator.controller.lease import LeaseLost
from finetune_operator.controller.main import Operator, build
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.parts import PartEnded, until_one_ends
from finetune_operator.controller.settings import OperatorSettings
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.testing import FakeApi, FakeClock, finetune_job, settle, timed_out
from finetune_operator.testing.operated_cluster import operator_settings

Watch = Callable[[Cache, WorkQueue[JobKey], asyncio.Event], Coroutine[Any, Any, None]]


async def for_ever() -> None:
    await asyncio.Event().wait()


async def watch_nothing(cache: Cache, queue: WorkQueue[JobKey], ready: asyncio.Event) -> None:
    await for_ever()


@pytest.fixture
def settings(tmp_path: Path) -> OperatorSettings:
    return operator_settings(tmp_path)


def operator(settings: OperatorSettings, api: FakeApi, clock: FakeClock, watch: Watch = watch_nothing) -> Operator:
    return build(settings, api, clock, OperatorMetrics(), watch)


def holder(api: FakeApi) -> str:
    lease = api.find(LEASES, "system", "finetune-operator")
    return "" if lease is None else str(lease["spec"]["holderIdentity"])


async def test_the_part_that_ends_first_ends_all_and_is_named() -> None:
    async def short() -> None:
        await asyncio.sleep(0)

    with pytest.raises(PartEnded, match="short has ended"):
        await until_one_ends({"long": for_ever(), "short": short()})


async def test_an_error_of_a_part_is_the_error_of_all() -> None:
    async def broken() -> None:
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        await until_one_ends({"long": for_ever(), "broken": broken()})


async def test_the_leader_reconciles_what_its_first_list_finds(settings: OperatorSettings) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(finetune_job())
    leader = operator(settings, api, clock)
    leading = asyncio.create_task(leader.lead())
    await clock.advance(1)
    body = api.find(FINETUNE_JOBS, "team", "tune")
    assert body is not None
    assert body["status"]["state"]
    assert holder(api) == "operator-0"
    leading.cancel()
    await asyncio.wait({leading})


async def test_a_standby_replica_reads_nothing_but_the_lease(settings: OperatorSettings) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    leading = asyncio.create_task(operator(settings, api, clock).lead())
    await clock.advance(1)
    api.forget_calls()
    standby = operator(settings.model_copy(update={"pod_name": "operator-1"}), api, clock)
    waiting = asyncio.create_task(standby.lead())
    await clock.advance(0.5)
    assert {call.kind for call in api.calls} == {"Lease"}
    for task in (leading, waiting):
        task.cancel()
    await asyncio.wait({leading, waiting})


async def test_a_first_list_that_fails_is_tried_again_before_any_worker_starts(settings: OperatorSettings) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(finetune_job())
    api.fail("list", Unavailable(503, "ServiceUnavailable", "starting"), times=2)
    leading = asyncio.create_task(operator(settings, api, clock).lead())
    await settle()
    assert [call for call in api.writes() if call.kind != "Lease"] == []
    await clock.advance(5)
    assert [call for call in api.writes() if call.kind != "Lease"] != []
    leading.cancel()
    await asyncio.wait({leading})


async def test_a_leader_that_is_stopped_gives_the_lease_back(settings: OperatorSettings) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    leading = asyncio.create_task(operator(settings, api, clock).lead())
    await clock.advance(1)
    leading.cancel()
    await asyncio.wait({leading})
    assert leading.cancelled()
    assert holder(api) == ""


async def test_a_leader_that_loses_the_lease_ends_and_does_not_touch_the_lease_again(
    settings: OperatorSettings,
) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    leading = asyncio.create_task(operator(settings, api, clock).lead())
    await clock.advance(1)
    api.fail("*", timed_out(), kind="Lease", times=100)
    await clock.advance(11)
    with pytest.raises(LeaseLost):
        await leading
    assert holder(api) == "operator-0"


async def test_a_watch_that_ends_ends_the_leader(settings: OperatorSettings) -> None:
    async def dies(cache: Cache, queue: WorkQueue[JobKey], ready: asyncio.Event) -> None:
        raise ConnectionError("410")

    clock = FakeClock()
    api = FakeApi(clock)
    with pytest.raises(ConnectionError):
        await operator(settings, api, clock, dies).lead()
    assert holder(api) == ""


async def test_an_inspection_that_arrives_at_the_leader_wakes_its_job(settings: OperatorSettings) -> None:
    clock = FakeClock()
    leader = operator(settings, FakeApi(clock), clock)
    await leader.elector.acquire()
    leader.progress._notify("team", "tune")
    assert await leader.queue.get() == JobKey("team", "tune")


async def test_a_standby_replica_queues_nothing_that_nobody_would_work_on(settings: OperatorSettings) -> None:
    clock = FakeClock()
    standby = operator(settings, FakeApi(clock), clock)
    standby.progress._notify("team", "tune")
    assert len(standby.queue) == 0
