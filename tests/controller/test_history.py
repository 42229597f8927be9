"""The history of finished jobs in its ConfigMap: learned once, written once, read by the next plans and the next operator."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from finetune_operator.api.history import EMPTY_HISTORY, History
from finetune_operator.controller.history import HISTORY_FILE, WRITE_SECONDS, HistoryKeeper
from finetune_operator.controller.kube import CONFIG_MAPS, FINETUNE_JOBS, Forbidden
from finetune_operator.controller.settings import OperatorSettings
from finetune_operator.jobs.testing import make_prediction
from finetune_operator.planner.history import FinishedRun
from finetune_operator.testing import FakeApi, FakeClock, config_map, timed_out
from finetune_operator.testing.operated_cluster import OperatedCluster, operating, operator_settings

NAME = "finetune-operator-history"


@pytest.fixture
def settings(tmp_path: Path) -> OperatorSettings:
    return operator_settings(tmp_path)


def stored(api: FakeApi) -> History:
    body = api.find(CONFIG_MAPS, "system", NAME)
    return History.model_validate_json(body["data"][HISTORY_FILE]) if body else EMPTY_HISTORY


def history_writes(api: FakeApi) -> int:
    return sum(call.name == NAME for call in api.writes())


async def complete(cluster: OperatedCluster, over_expected: float) -> None:
    """Let the job go its way, with a peak of so many times what its plan expected."""
    cluster.submit()
    await cluster.clock.advance(1)
    await cluster.inspected()
    await cluster.running("tune-1")
    plan = cluster.job().status.plan
    assert plan is not None
    await cluster.ended("tune-1", 0, peak=round(float(plan.expected_gib) * over_expected * 2**30))
    await cluster.ended("tune-publish", 0, component="publish", attempt=1, result="s3://models/tune")
    assert cluster.state() == "Complete"


async def test_a_finished_job_is_learned_once_and_a_second_look_writes_nothing(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        await complete(cluster, 1.1)
        await cluster.clock.advance(WRITE_SECONDS)
        (entry,) = stored(cluster.api).records
        assert entry.kind.accelerator == "cpu"
        assert entry.runs[0].memory_ratio == pytest.approx(1.1, abs=0.02)
        assert history_writes(cluster.api) == 1
        await cluster.clock.advance(3600)
        assert history_writes(cluster.api) == 1


async def test_no_name_of_a_job_a_model_or_data_is_in_the_history(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        await complete(cluster, 1.1)
        await cluster.clock.advance(WRITE_SECONDS)
        body = cluster.api.find(CONFIG_MAPS, "system", NAME)
        assert body is not None
        text = body["data"][HISTORY_FILE]
        uid = cluster.job().metadata.uid
        assert not any(name in text for name in ('tune"', "team", "s3://", "hf://", "tiny", uid))


async def test_the_next_operator_reads_it_and_learns_nothing_anew(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        await complete(cluster, 1.1)
        await cluster.clock.advance(WRITE_SECONDS)
        await cluster.kill()
        await cluster.start()
        await cluster.clock.advance(120)
        assert history_writes(cluster.api) == 1


async def test_a_run_that_was_not_written_before_the_operator_died_is_learned_by_the_next(
    settings: OperatorSettings,
) -> None:
    async with operating(settings) as cluster:
        await complete(cluster, 1.1)
        await cluster.kill()
        assert stored(cluster.api).runs == 0
        await cluster.start()
        await cluster.clock.advance(120)
        assert stored(cluster.api).runs == 1


async def test_a_later_job_of_the_kind_is_planned_with_what_was_learned(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        await complete(cluster, 1.25)
        before = cluster.job().status.plan
        await cluster.clock.advance(WRITE_SECONDS)
        await cluster.api.delete(FINETUNE_JOBS, "team", "tune")
        await cluster.clock.advance(1)
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        after = cluster.job().status.plan
        assert before is not None
        assert after is not None
        assert float(after.expected_gib) > 1.04 * float(before.expected_gib)
        assert any("learned from 1 finished job of this kind" in reason for reason in after.reasons)


def run(number: int) -> FinishedRun:
    prediction = make_prediction()
    return FinishedRun(f"job-{number}", f"2026-11-21T10:00:{number:02}Z", prediction, prediction.expected_bytes)


def keeper(api: FakeApi, clock: FakeClock) -> HistoryKeeper:
    return HistoryKeeper(api, clock, "system", NAME)


async def test_what_another_operator_has_written_meanwhile_is_kept() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    one, other = keeper(api, clock), keeper(api, clock)
    one.note(run(1))
    other.note(run(2))
    await one.flush()
    await other.flush()
    assert stored(api).runs == 2
    assert other.history.runs == 2


async def test_a_write_that_fails_is_done_later() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    kept = keeper(api, clock)
    kept.note(run(1))
    api.fail("apply", timed_out())
    await kept.flush()
    assert stored(api).runs == 0
    await kept.flush()
    assert stored(api).runs == 1


async def test_without_permission_plans_go_on_from_memory_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    kept = keeper(api, clock)
    api.fail("get", Forbidden(403, "Forbidden", "no"), times=9)
    with caplog.at_level(logging.WARNING):
        kept.note(run(1))
        await kept.flush()
        await kept.flush()
    assert kept.history.runs == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("text", ["{", '{"records": 3}'])
async def test_a_history_that_somebody_has_spoilt_is_left_alone_until_there_is_a_new_run(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.seed(config_map(NAME, {HISTORY_FILE: text}, namespace="system", immutable=False))
    kept = keeper(api, clock)
    with caplog.at_level(logging.WARNING):
        await kept.load()
        await kept.flush()
    assert kept.history == EMPTY_HISTORY
    assert f"ConfigMap system/{NAME}: {HISTORY_FILE} is not what the operator writes" in caplog.text
    assert history_writes(api) == 0
    kept.note(run(1))
    await kept.flush()
    assert stored(api).runs == 1
