"""Where the time of an attempt went: every second of its GPUs once, under one cause, however often the operator looks."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.progress import Metric
from finetune_operator.api.status import ProgressStatus
from finetune_operator.api.time_spent import (
    CAUSE_MEANINGS,
    TRAINER_CAUSES,
    LostCause,
    TimeAccount,
    TimeSpent,
    WaitCause,
    time_spent_of,
)
from finetune_operator.jobs.observed import PodReport
from finetune_operator.jobs.testing import START, FixedPlanner, World, ended_pod, make_plan, trained
from finetune_operator.jobs.time_accounts import held_time
from finetune_operator.jobs.times import text_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
SPENT = TimeSpent(
    lost={"import": 15.0, "load": 5.0, "data": 1.0}, productive=60.0, first_step_time=START.timestamp() + 70
)


def two_pods() -> World:
    """Return a job of four processes in two pods, whose attempt was made at START + 2 s and trains."""
    return trained(World(planner=FixedPlanner(make_plan(pods=2, processes=4))))


def with_words(pod: PodReport, spent: TimeSpent | None) -> PodReport:
    told = pod.termination
    return replace(pod, termination=told.model_copy(update={"time": spent}) if told else None)


def pods_that_died(spent: TimeSpent | None = SPENT) -> list[PodReport]:
    """Return two pods, scheduled 10 and 20 s after START, started at 30 and 40 s, ended at 150 s."""
    pods = []
    for index in range(2):
        times = {
            "scheduled_at": START + timedelta(seconds=10 * (index + 1)),
            "started": START + timedelta(seconds=10 * index + 30),
        }
        pod = ended_pod(1, index=index, finished=START + timedelta(seconds=150), step=5, **times)
        pods.append(with_words(pod, spent if index == 0 else None))
    return pods


def fail_once(world: World, spent: TimeSpent | None = SPENT, *, seen_after: float = 0.0) -> TimeAccount:
    world.now = START + timedelta(seconds=150)
    world.fail("tune-1", *pods_that_died(spent))
    world.advance(seen_after)
    world.settle()
    account = world.status.attempts[0].time
    assert account is not None
    return account


def test_every_second_that_gpus_were_held_is_counted_once() -> None:
    account = fail_once(two_pods())
    held = 2 * (150 - 10) + 2 * (150 - 20)
    lost = account.lost_gpu_seconds or {}
    assert account.productive_gpu_seconds == 4 * 60
    assert lost == {"pull": 2 * 30 + 2 * 20, "import": 60, "load": 20, "data": 4, "other": held - 240 - 100 - 84}
    assert account.productive_gpu_seconds + sum(lost.values()) == held
    assert account.waiting_seconds == {"queue": 18}


@given(
    st.lists(st.tuples(*[st.integers(0, 300)] * 3), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(TRAINER_CAUSES), st.floats(0, 400), max_size=4),
    st.floats(0, 400),
)
def test_whatever_pods_and_ranks_say_what_was_held_is_productive_or_lost(
    waits: list[tuple[int, int, int]], lost: dict[str, float], productive: float
) -> None:
    """Ranks may claim more than was held, as clocks differ; nothing is ever negative, and nothing held is left out."""
    plan = make_plan(pods=len(waits), processes=2 * len(waits))
    pods, held = [], 0
    for index, (scheduled, start, life) in enumerate(waits):
        at = START + timedelta(seconds=scheduled)
        times = {"scheduled_at": at, "started": at + timedelta(seconds=start)}
        pods.append(ended_pod(1, index=index, finished=at + timedelta(seconds=start + life), **times))
        held += 2 * (start + life)
    account = held_time(plan, pods, START, TimeSpent(lost=lost, productive=productive))
    found = account.lost_gpu_seconds or {}
    assert min((account.productive_gpu_seconds, *found.values())) >= 0
    assert account.productive_gpu_seconds + sum(found.values()) >= held - len(LostCause)


def test_a_killed_pod_s_time_is_that_of_its_last_report() -> None:
    world = two_pods()
    metrics = [Metric(name=name, value=str(value)) for name, value in SPENT.named().items()]
    told = ProgressStatus(attempt=1, step=3, metrics=metrics)
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"progress": told})})
    assert fail_once(world, None) == fail_once(two_pods())


def test_without_any_word_all_that_was_held_is_lost() -> None:
    account = fail_once(two_pods(), None)
    assert account.productive_gpu_seconds == 0
    assert sum((account.lost_gpu_seconds or {}).values()) == 2 * 140 + 2 * 130


def test_the_next_attempt_knows_the_step_that_was_reached_and_its_wait() -> None:
    world = two_pods()
    first = fail_once(world, seen_after=7)
    assert world.files[2].reached_step == 5
    made = world.children["tune-2"].created
    later = TimeSpent(
        lost={"replay": 10.0}, productive=20.0, first_step_time=(made + timedelta(seconds=50)).timestamp()
    )
    pod = ended_pod(0, attempt=2, finished=made + timedelta(seconds=100), scheduled_at=made, started=made)
    world.now = made + timedelta(seconds=100)
    world.finish("tune-2", with_words(pod, later))
    world.settle()
    second = world.status.attempts[1]
    assert second.time is not None
    assert second.time.waiting_seconds == {"restart": 7}
    assert second.first_step_time == text_of(made + timedelta(seconds=50))
    assert world.status.time == first.plus(second.time)


def test_an_ended_attempt_is_added_once_however_often_it_is_looked_at() -> None:
    world = two_pods()
    account = fail_once(world)
    stale = world.job
    world.settle()
    world.pods = []
    world.settle()
    assert world.status.time == account
    # A decision on a status from before the end makes the same account again, and not a second one.
    world.job = stale.model_copy(update={"status": stale.status.model_copy(update={"attempts": [], "time": None})})
    world.pods = pods_that_died()
    world.reconcile()
    assert world.status.time == account


def test_a_resumed_attempt_has_not_queued_while_it_was_suspended() -> None:
    world = two_pods()
    world.change_spec(run={"suspend": True})
    world.settle()
    world.pods = []
    world.children["tune-1"] = replace(world.children["tune-1"], active=0)
    world.advance(3600)
    world.settle()
    world.change_spec(run={"suspend": False})
    world.settle()
    resumed = world.now
    world.advance(40)
    times = {"scheduled_at": resumed + timedelta(seconds=15), "started": resumed + timedelta(seconds=20)}
    world.finish("tune-1", *(ended_pod(0, index=index, finished=world.now, **times) for index in range(2)))
    world.settle()
    account = world.status.attempts[0].time
    assert account is not None
    assert account.waiting_seconds == {"queue": 15}


@given(st.dictionaries(st.text(max_size=20), st.floats().map(str), max_size=8))
def test_whatever_an_image_reports_is_a_plausible_account_or_none(reported: dict[str, str]) -> None:
    spent = time_spent_of([("lost_seconds_load", "nan"), ("first_step_time", "inf"), *reported.items()])
    assert spent is None or all(0 <= value <= 4e9 for value in (*spent.lost.values(), spent.productive))


def test_a_report_carries_the_whole_account() -> None:
    metrics = [(name, str(value)) for name, value in SPENT.named().items()]
    assert time_spent_of(metrics) == SPENT.model_copy(update={"first_step_time": round(START.timestamp() + 70)})
    assert time_spent_of([("loss", "1.0")]) is None


def test_every_cause_is_documented_and_no_other() -> None:
    section = PAGE.read_text().partition("## Where time goes")[2]
    rows = re.findall(r"^\| `([a-z]+)` \| (operator|trainer) \| (waiting|GPUs) \| (.*) \|$", section, re.MULTILINE)
    assert {name: meaning for name, _, _, meaning in rows} == CAUSE_MEANINGS
    assert {name for name, by, *_ in rows if by == "trainer"} == set(TRAINER_CAUSES)
    assert {name for name, _, of, _ in rows if of == "waiting"} == set(WaitCause)
    assert set(LostCause) | set(WaitCause) == set(CAUSE_MEANINGS)
