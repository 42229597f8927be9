"""Leader election in virtual time: one leader, who knows when to stop."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.controller.kube import LEASES, Body, Conflict, Forbidden, Resource
from finetune_operator.controller.lease import LeaderElector, LeaseLost, LeaseSettings
from finetune_operator.testing import FakeApi, FakeClock, settle, timed_out


def elector(api: FakeApi, clock: FakeClock, identity: str) -> LeaderElector:
    return LeaderElector(api, clock, LeaseSettings(namespace="system", name="lease", identity=identity))


def holder(api: FakeApi) -> str:
    lease = api.find(LEASES, "system", "lease")
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


class SlowApi(FakeApi):
    """Answers nothing while `hanging`."""

    hanging = False

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        if self.hanging:
            await self.clock.sleep(1000)
        return await super().get(resource, namespace, name)


async def test_the_first_replica_takes_the_lease_at_once() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    assert (one.leading, holder(api)) == (True, "one")


async def test_a_second_replica_waits_while_the_first_renews() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one, two = elector(api, clock, "one"), elector(api, clock, "two")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    waiting = asyncio.create_task(two.acquire())
    await clock.advance(120)
    assert not waiting.done()
    assert not holding.done()
    holding.cancel()
    waiting.cancel()


async def test_a_second_replica_takes_over_when_the_first_has_died() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    await elector(api, clock, "one").acquire()
    waiting = asyncio.create_task(elector(api, clock, "two").acquire())
    await clock.advance(14)
    assert not waiting.done()
    await clock.advance(4)
    assert waiting.done()
    lease = api.find(LEASES, "system", "lease")
    assert lease is not None
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("two", 1)


async def test_the_record_tells_since_when_its_holder_leads() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    await clock.advance(60)
    lease = api.find(LEASES, "system", "lease")
    assert lease is not None
    assert lease["spec"]["acquireTime"] == "2026-01-01T00:00:00.000000Z"
    assert lease["spec"]["renewTime"] == "2026-01-01T00:01:00.000000Z"
    holding.cancel()


async def test_a_released_lease_is_taken_within_one_retry() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    waiting = asyncio.create_task(elector(api, clock, "two").acquire())
    await settle()
    await one.release()
    assert not one.leading
    await clock.advance(2)
    assert waiting.done()


async def test_a_wall_clock_that_jumps_makes_no_second_leader() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    waiting = asyncio.create_task(elector(api, clock, "two").acquire())
    await clock.advance(5)
    clock.jump_wall_clock(3600)
    await clock.advance(30)
    assert not waiting.done()
    holding.cancel()
    waiting.cancel()


async def test_a_leader_whose_requests_fail_gives_up_at_the_renew_deadline() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    api.fail("*", timed_out(), times=1000)
    await clock.advance(9.9)
    assert not holding.done()
    await clock.advance(0.2)
    with pytest.raises(LeaseLost, match="no renewal succeeded"):
        await holding
    assert not one.leading


async def test_a_leader_whose_request_hangs_gives_up_at_the_renew_deadline_all_the_same() -> None:
    clock = FakeClock()
    api = SlowApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    api.hanging = True
    holding = asyncio.create_task(one.hold())
    await clock.advance(10.1)
    with pytest.raises(LeaseLost):
        await holding


async def test_a_conflict_with_our_own_late_write_does_not_end_the_leader() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    api.fail("replace", Conflict(409, "Conflict", "the object has been modified"))
    await clock.advance(5)
    assert (holding.done(), one.leading) == (False, True)
    holding.cancel()


async def test_an_outage_shorter_than_the_deadline_is_survived() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    api.fail("*", timed_out(), times=3)
    await clock.advance(60)
    assert not holding.done()
    holding.cancel()


async def test_a_leader_that_finds_another_holder_stops_at_once() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    lease = api.find(LEASES, "system", "lease")
    assert lease is not None
    lease["spec"]["holderIdentity"] = "two"
    api.seed(lease)
    holding = asyncio.create_task(one.hold())
    await clock.advance(2.1)
    with pytest.raises(LeaseLost, match="another replica"):
        await holding


async def test_a_renewal_that_was_carried_out_although_its_answer_was_lost_loses_nothing() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one = elector(api, clock, "one")
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    api.fail("replace", timed_out(), carried_out=True)
    await clock.advance(30)
    assert (holding.done(), holder(api)) == (False, "one")
    holding.cancel()


async def test_of_two_that_race_for_a_new_lease_one_wins_and_the_other_waits() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.fail("create", Conflict(409, "AlreadyExists", "taken"))
    slow = asyncio.create_task(elector(api, clock, "slow").acquire())
    await settle()
    await elector(api, clock, "fast").acquire()
    await clock.advance(4)
    assert (slow.done(), holder(api)) == (False, "fast")
    slow.cancel()


async def test_a_lease_that_rbac_forbids_is_tried_again_and_not_an_end() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.fail("get", Forbidden(403, "Forbidden", "leases is forbidden"), times=3)
    one = asyncio.create_task(elector(api, clock, "one").acquire())
    await clock.advance(10)
    assert one.done()
