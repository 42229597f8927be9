"""From reports to status.progress: what is shown, how seldom it is written, and that nothing newer is overwritten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.constants import PROGRESS_FIELD_MANAGER
from finetune_operator.api.progress import TrainerStatus
from finetune_operator.api.status import ProgressStatus
from finetune_operator.controller.kube import FINETUNE_JOBS, NotFound
from finetune_operator.controller.progress_reports import ProgressWriter, Result, progress_status
from finetune_operator.testing import FakeApi, FakeClock, finetune_job, settle, timed_out

KEY = ("team", "tune")
NOW = "2026-01-01T00:00:00Z"


def report(percentage: int | None = None, remaining: int | None = None, **metrics: object) -> TrainerStatus:
    return TrainerStatus.model_validate(
        {
            "progressPercentage": percentage,
            "estimatedRemainingSeconds": remaining,
            "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items()],
        }
    )


def test_a_report_of_our_trainer_is_shown_for_people_and_programs() -> None:
    shown = progress_status(report(40, 730, step=120, total_steps=300, loss=1.23456, checkpoint_step=100), 2, NOW)
    assert (shown.attempt, shown.step, shown.total_steps, shown.steps) == (2, 120, 300, "120/300")
    assert (shown.percentage, shown.loss, shown.eta) == (40, "1.235", "12m")
    assert (shown.checkpoint_step, shown.last_updated_time) == (100, NOW)


def test_a_report_of_an_unmodified_transformers_image_is_understood() -> None:
    shown = progress_status(report(40, 60, current_step=120, total_steps=300, loss=2.5, current_epoch=0.4), 1, NOW)
    assert (shown.steps, shown.loss) == ("120/300", "2.5")


def test_what_a_report_leaves_out_stays_as_it_was() -> None:
    before = progress_status(report(40, 60, step=120, total_steps=300, loss=2.5), 1, NOW)
    after = progress_status(report(41), 1, NOW, before)
    assert (after.steps, after.loss, after.percentage) == ("120/300", "2.5", 41)


def test_nothing_of_an_earlier_attempt_is_kept() -> None:
    before = progress_status(report(40, 60, step=120, total_steps=300, loss=2.5), 1, NOW)
    after = progress_status(report(0), 2, NOW, before)
    assert (after.attempt, after.step, after.loss, after.metrics) == (2, None, None, [])


def test_a_finished_training_has_no_time_left() -> None:
    shown = progress_status(report(100, 0, step=300, total_steps=300), 1, NOW)
    assert shown.eta is None
    assert shown.estimated_remaining_seconds is None


def test_an_evaluation_after_the_training_shows_its_rows_and_the_time_that_is_left() -> None:
    shown = progress_status(
        report(100, 730, step=300, total_steps=300, evaluated_rows=120, evaluation_rows=400), 1, NOW
    )
    assert (shown.evaluation, shown.steps, shown.eta) == ("120/400", "300/300", "12m")
    assert progress_status(report(40, 730, step=120, evaluation_rows=400), 1, NOW).evaluation is None


@pytest.mark.parametrize("value", ["the patient said", "", "1e999999999999999999x", "0x10"])
def test_a_metric_that_is_no_number_is_not_shown_because_it_could_be_row_content(value: str) -> None:
    shown = progress_status(report(loss=value, note=value, good=1), 1, NOW)
    assert [metric.name for metric in shown.metrics] == ["good"]
    assert shown.loss is None


def test_a_metric_with_a_strange_name_is_not_shown() -> None:
    strange = TrainerStatus.model_validate({"metrics": [{"name": "what the user asked", "value": "1"}]})
    assert progress_status(strange, 1, NOW).metrics == []


def test_a_diverged_loss_is_shown_as_it_is() -> None:
    assert progress_status(report(loss="nan"), 1, NOW).loss == "nan"


def test_a_count_that_no_counter_holds_is_not_shown() -> None:
    shown = progress_status(report(step="1e300", total_steps="-1"), 1, NOW)
    assert (shown.step, shown.total_steps) == (None, None)


texts = st.text(alphabet="ab01.-+e_ ∞١\n", max_size=20)
values = st.one_of(st.integers(), st.floats(), texts).map(lambda value: str(value)[:100])
names = st.sampled_from(["step", "total_steps", "loss", "checkpoint_step"]) | texts
metric_lists = st.lists(st.fixed_dictionaries({"name": names, "value": values}), max_size=20)


@given(metric_lists, st.integers(0, 100) | st.none(), st.integers(min_value=0) | st.none())
def test_whatever_is_reported_the_status_is_valid(
    metrics: list[dict[str, str]], percentage: int | None, remaining: int | None
) -> None:
    body = {"metrics": metrics, "progressPercentage": percentage, "estimatedRemainingSeconds": remaining}
    shown = progress_status(TrainerStatus.model_validate(body), 1, NOW)
    assert ProgressStatus.model_validate(shown.to_json_dict()).metrics == shown.metrics


def test_only_so_many_metrics_are_shown_as_the_status_has_room_for() -> None:
    assert len(progress_status(report(**{f"m{number}": number for number in range(100)}), 1, NOW).metrics) == 64


class Trainer:
    """One trainer, the API server, and the replica that takes its reports."""

    def __init__(self, status: dict[str, Any] | None = None) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.api.seed(finetune_job(status=status or {}))
        self.writer = ProgressWriter(self.api, self.clock)
        self.attempt = 1

    async def says(self, step: int, percentage: int = 50) -> Result:
        return await self.writer.take(KEY, report(percentage, step=step, total_steps=300), self.attempt)

    @property
    def shown(self) -> str:
        job = self.api.find(FINETUNE_JOBS, *KEY)
        assert job is not None
        return str(job["status"].get("progress", {}).get("steps"))

    @property
    def writes(self) -> int:
        return len(self.api.writes())


async def test_the_first_report_is_shown_at_once_under_our_own_manager() -> None:
    trainer = Trainer()
    assert await trainer.says(1) == "written"
    assert trainer.shown == "1/300"
    (call,) = trainer.api.writes()
    assert (call.subresource, call.manager) == ("status", PROGRESS_FIELD_MANAGER)


async def test_what_the_operator_wrote_into_the_status_stays() -> None:
    trainer = Trainer({"state": "Running", "conditions": [{"type": "Running", "status": "True"}]})
    await trainer.says(1)
    job = trainer.api.find(FINETUNE_JOBS, *KEY)
    assert job is not None
    assert job["status"]["state"] == "Running"
    assert len(job["status"]["conditions"]) == 1


async def test_ninety_nine_reports_in_ten_seconds_are_two_writes_and_the_newest_is_shown() -> None:
    trainer = Trainer()
    flushing = asyncio.create_task(trainer.writer.flush_forever())
    for step in range(1, 100):
        await trainer.says(step)
        await trainer.clock.advance(0.1)
    assert trainer.shown == "1/300"
    await trainer.clock.advance(1)
    assert trainer.shown == "99/300"
    assert trainer.writes == 2
    flushing.cancel()


async def test_the_final_report_is_shown_at_once() -> None:
    trainer = Trainer()
    await trainer.says(299)
    assert await trainer.says(300, percentage=100) == "written"
    assert trainer.shown == "300/300"


async def test_the_final_report_is_written_at_once_only_once() -> None:
    trainer = Trainer()
    await trainer.says(300, percentage=100)
    assert await trainer.says(300, percentage=100) == "deferred"
    assert trainer.writes == 1


async def test_a_new_attempt_is_shown_at_once() -> None:
    trainer = Trainer()
    await trainer.says(120)
    trainer.attempt = 2
    assert await trainer.says(101) == "written"
    assert trainer.shown == "101/300"


async def test_an_older_attempt_is_ignored() -> None:
    trainer = Trainer()
    trainer.attempt = 2
    await trainer.says(101)
    trainer.attempt = 1
    assert await trainer.says(150) == "ignored"
    assert trainer.shown == "101/300"


async def test_an_older_attempt_is_ignored_by_a_replica_that_has_not_seen_the_newer_one() -> None:
    trainer = Trainer({"progress": {"attempt": 2, "steps": "7/300", "lastUpdatedTime": NOW}})
    assert await trainer.says(150) == "ignored"
    assert await trainer.says(151) == "ignored"
    assert trainer.shown == "7/300"
    assert trainer.writes == 0


async def test_a_report_that_waits_does_not_overwrite_a_later_one_taken_by_another_replica() -> None:
    trainer = Trainer()
    other = ProgressWriter(trainer.api, trainer.clock)
    await trainer.says(1)
    await trainer.says(2)
    await trainer.clock.advance(5)
    await other.take(KEY, report(50, step=3, total_steps=300), 1)
    await trainer.writer.flush()
    assert trainer.shown == "3/300"


async def test_a_report_for_a_job_that_does_not_exist_is_not_found() -> None:
    trainer = Trainer()
    with pytest.raises(NotFound):
        await trainer.writer.take(("team", "other"), report(1), 1)


async def test_a_job_that_was_deleted_meanwhile_is_not_created_again() -> None:
    trainer = Trainer()
    await trainer.says(1)
    await trainer.says(2)
    await trainer.api.delete(FINETUNE_JOBS, *KEY)
    await trainer.writer.flush()
    assert trainer.api.find(FINETUNE_JOBS, *KEY) is None
    with pytest.raises(NotFound):
        await trainer.says(3)


async def test_a_write_that_fails_is_tried_again() -> None:
    trainer = Trainer()
    flushing = asyncio.create_task(trainer.writer.flush_forever())
    await settle()
    trainer.api.fail("apply", timed_out())
    assert await trainer.says(1) == "deferred"
    await trainer.clock.advance(11)
    assert trainer.shown == "1/300"
    flushing.cancel()


async def test_what_waits_is_written_when_the_process_ends() -> None:
    trainer = Trainer()
    await trainer.says(1)
    await trainer.says(2)
    await trainer.writer.flush()
    assert trainer.shown == "2/300"


async def test_nothing_is_written_while_nothing_is_reported() -> None:
    trainer = Trainer()
    flushing = asyncio.create_task(trainer.writer.flush_forever())
    await trainer.says(1)
    await trainer.clock.advance(60)
    assert trainer.writes == 1
    flushing.cancel()


async def test_a_rejected_checkpoint_is_counted_once_by_all_replicas_together() -> None:
    trainer = Trainer()
    rejected: list[int] = []
    replicas = [ProgressWriter(trainer.api, trainer.clock, rejected.append) for _ in range(2)]
    for attempt, checkpoints in ((1, 0), (1, 1), (1, 1), (1, 3), (2, 1)):
        for replica in replicas:
            await replica.take(KEY, report(50, step=1, checkpoints_rejected=checkpoints), attempt)
            await trainer.clock.advance(10)
    assert rejected == [1, 2, 1]


async def test_a_job_that_has_been_silent_for_an_hour_is_forgotten() -> None:
    trainer = Trainer()
    flushing = asyncio.create_task(trainer.writer.flush_forever())
    await trainer.says(1)
    await trainer.clock.advance(3602)
    assert trainer.writer._jobs == {}
    flushing.cancel()
