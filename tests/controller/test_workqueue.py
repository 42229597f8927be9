"""The work queue: nothing twice at a time, nothing lost, delays and backoff in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.controller.workqueue import MAXIMUM_DELAY_SECONDS, QueueClosed, WorkQueue, backoff_seconds
from finetune_operator.testing import FakeClock, settle


def make_queue(clock: FakeClock | None = None) -> WorkQueue[str]:
    return WorkQueue(clock or FakeClock(), jitter=lambda: 0.0)


async def test_a_key_that_is_added_twice_is_handed_out_once() -> None:
    queue = make_queue()
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_while_a_worker_has_it_comes_again_after_done() -> None:
    queue = make_queue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


async def test_get_waits_until_something_is_added() -> None:
    queue = make_queue()
    taken = asyncio.create_task(queue.get())
    await settle()
    assert not taken.done()
    queue.add("a")
    assert await taken == "a"


async def test_a_delayed_key_comes_when_its_time_has_come() -> None:
    clock = FakeClock()
    queue = make_queue(clock)
    queue.add_after("a", 10)
    taken = asyncio.create_task(queue.get())
    await clock.advance(9.9)
    assert not taken.done()
    await clock.advance(0.2)
    assert taken.result() == "a"


@pytest.mark.parametrize("delays", [(10, 5), (5, 10)])
async def test_of_two_delays_the_earlier_wins_and_counts_once(delays: tuple[int, int]) -> None:
    clock = FakeClock()
    queue = make_queue(clock)
    for delay in delays:
        queue.add_after("a", delay)
    taken = asyncio.create_task(queue.get())
    await clock.advance(5)
    assert taken.result() == "a"
    queue.done("a")
    again = asyncio.create_task(queue.get())
    await clock.advance(20)
    assert not again.done()
    again.cancel()


async def test_an_add_fulfils_a_delayed_one() -> None:
    clock = FakeClock()
    queue = make_queue(clock)
    queue.add_after("a", 5)
    queue.add("a")
    queue.done(await queue.get())
    again = asyncio.create_task(queue.get())
    await clock.advance(20)
    assert not again.done()
    again.cancel()


async def test_an_earlier_delay_wakes_a_worker_that_waits_for_a_later_one() -> None:
    clock = FakeClock()
    queue = make_queue(clock)
    queue.add_after("late", 100)
    taken = asyncio.create_task(queue.get())
    await settle()
    queue.add_after("early", 1)
    await clock.advance(1)
    assert taken.result() == "early"


async def test_failures_wait_longer_each_time_and_success_resets_them() -> None:
    queue = make_queue()
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[:3] == [0.5, 0.5, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == MAXIMUM_DELAY_SECONDS / 2
    queue.forget("a")
    assert queue.retry("a") == 0.5


async def test_a_server_that_asks_for_more_patience_gets_it() -> None:
    assert make_queue().retry("a", at_least=30.0) == 30.0


async def test_a_closed_queue_ends_its_workers() -> None:
    queue = make_queue()
    taken = asyncio.create_task(queue.get())
    await settle()
    queue.close()
    with pytest.raises(QueueClosed):
        await taken


async def test_depth_and_wait_are_reported() -> None:
    clock = FakeClock()
    depths: list[int] = []
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(clock, on_depth=depths.append, on_wait=waits.append)
    queue.add("a")
    queue.add("b")
    await clock.advance(3)
    assert queue.oldest_wait_seconds == 3
    await queue.get()
    assert (depths, waits) == ([1, 2, 1], [3])


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_backoff_stays_within_its_bounds(failures: int, jitter: float) -> None:
    assert 0.5 <= backoff_seconds(failures, jitter) <= MAXIMUM_DELAY_SECONDS


_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc")),
        st.tuples(st.just("after"), st.sampled_from("abc")),
        st.tuples(st.just("retry"), st.sampled_from("abc")),
        st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 7.0])),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(_ACTIONS, st.integers(1, 3))
def test_no_key_is_worked_on_twice_at_a_time_and_no_add_is_lost(
    actions: list[tuple[str, object]], workers: int
) -> None:
    asyncio.run(run_actions(actions, workers))


async def run_actions(actions: list[tuple[str, object]], workers: int) -> None:
    clock = FakeClock()
    queue = make_queue(clock)
    busy: Counter[str] = Counter()
    started: dict[str, int] = {}
    asked: dict[str, int] = {}
    step = 0

    async def work() -> None:
        while True:
            key = await queue.get()
            busy[key] += 1
            assert busy[key] == 1
            started[key] = step
            await clock.sleep(0.3)
            busy[key] -= 1
            queue.done(key)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    for step, (action, argument) in enumerate(actions, start=1):
        if action == "advance":
            assert isinstance(argument, float)
            await clock.advance(argument)
            continue
        key = str(argument)
        asked[key] = step
        if action == "add":
            queue.add(key)
        elif action == "after":
            queue.add_after(key, 2.0)
        else:
            queue.retry(key)
    await clock.advance(5000)
    assert not any(task.done() for task in tasks), "a worker failed"
    for key, when in asked.items():
        assert started[key] >= when, f"{key} was asked for at {when} and last worked on at {started[key]}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
