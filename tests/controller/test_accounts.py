"""What the metrics are told when a status changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import (
    AttemptStatus,
    Condition,
    EvaluatedFigure,
    EvaluationStatus,
    FineTuneJobStatus,
    PlanStatus,
    ProgressStatus,
)
from finetune_operator.api.time_spent import TimeAccount, TimeSpent
from finetune_operator.controller.accounts import Accounts, finished_job
from finetune_operator.controller.cache import JobKey
from finetune_operator.controller.kube import JOBS
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.testing import finetune_job
from finetune_operator.testing.operated_cluster import operating, operator_settings

FAILED = AttemptStatus(number=1, result="Failed", reason=Reason.GPU_OUT_OF_MEMORY)
RUNNING = AttemptStatus(number=1, result="Running")
PLAN = PlanStatus(
    gpus=0, pods=1, processes=1, strategy="single", micro_batch_size=1, gradient_accumulation=1, gradient_checkpointing="none",
    total_steps=20, trainable_parameters=1, expected_gib="2.00", upper_gib="3.00", measured_gib="1.50",
)  # fmt: skip


def job_with(**status: Any) -> FineTuneJob:
    return FineTuneJob.from_manifest(finetune_job()).model_copy(update={"status": FineTuneJobStatus(**status)})


def complete(**more: Any) -> FineTuneJobStatus:
    condition = Condition(
        type=ConditionType.COMPLETE, status="True", reason=Reason.SUCCEEDED, last_transition_time="2026-01-01T00:00:00Z"
    )
    return FineTuneJobStatus(
        state=JobState.COMPLETE, conditions=[condition], attempts=[FAILED], plan=PLAN,
        start_time="2026-01-01T00:00:00Z", completion_time="2026-01-01T01:00:00Z", **more,
    )  # fmt: skip


def sample(metrics: OperatorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"finetune_operator_{name}", labels)


def test_an_attempt_that_has_just_ended_is_counted_once_by_its_cause() -> None:
    metrics = OperatorMetrics()
    accounts = Accounts(metrics)
    ended = FineTuneJobStatus(attempts=[FAILED])
    accounts.settle(job_with(attempts=[RUNNING]), ended)
    accounts.settle(job_with(attempts=[FAILED]), ended)
    assert sample(metrics, "attempts_total", reason="GPUOutOfMemory") == 1


def test_a_finished_job_leaves_what_its_models_were_evaluated_to() -> None:
    metrics = OperatorMetrics()
    figures = [EvaluatedFigure(name="rouge1", base="0.1", tuned="0.4"), EvaluatedFigure(name="judge", tuned="4.5")]
    finished = finished_job(job_with(), complete(evaluation=EvaluationStatus(step=20, rows=9, figures=figures)))
    assert finished is not None
    metrics.job_finished(finished)
    told = {"namespace": finished.namespace, "job": finished.job}
    assert sample(metrics, "job_evaluation", **told, metric="rouge1", model="base") == 0.1
    assert sample(metrics, "job_evaluation", **told, metric="rouge1", model="tuned") == 0.4
    assert sample(metrics, "job_evaluation", **told, metric="judge", model="base") is None


def test_a_finished_job_leaves_its_final_values() -> None:
    finished = finished_job(job_with(progress=ProgressStatus(step=20, loss="0.51")), complete())
    assert finished is not None
    assert (finished.succeeded, finished.attempts, finished.seconds) == (True, 1, 3600)
    assert (finished.steps, finished.loss) == (20, 0.51)
    assert (finished.expected_memory_bytes, finished.peak_memory_bytes) == (2 * GIB, 1.5 * GIB)


def test_a_job_under_way_leaves_none() -> None:
    assert finished_job(job_with(), FineTuneJobStatus(state=JobState.RUNNING)) is None


def test_a_deleted_job_s_values_go_with_it() -> None:
    metrics = OperatorMetrics()
    accounts = Accounts(metrics)
    accounts.settle(job_with(), complete())
    assert sample(metrics, "job_seconds", namespace="team", job="tune") == 3600
    accounts.forget(JobKey("team", "tune"))
    assert sample(metrics, "job_seconds", namespace="team", job="tune") is None


def test_where_an_attempt_s_time_went_is_counted_once_and_by_accelerator() -> None:
    metrics = OperatorMetrics()
    accounts = Accounts(metrics)
    account = TimeAccount(productive_gpu_seconds=80, lost_gpu_seconds={"load": 20}, waiting_seconds={"queue": 5})
    told = {"completion_time": "2026-01-01T00:00:10Z", "time": account}
    first = FAILED.model_copy(update=told)
    second = AttemptStatus(
        number=2, result="Succeeded", time=account, first_step_time="2026-01-01T00:00:52Z", completion_time=None
    )
    ended = FineTuneJobStatus(attempts=[first, second], plan=PLAN.model_copy(update={"gpus": 8}))
    accounts.settle(job_with(attempts=[first, RUNNING.model_copy(update={"number": 2})]), ended)
    accounts.settle(job_with(attempts=[first, second]), ended)
    assert sample(metrics, "productive_gpu_seconds_total", accelerator="gpu") == 80
    assert sample(metrics, "lost_gpu_seconds_total", cause="load", accelerator="gpu") == 20
    assert sample(metrics, "waiting_seconds_total", cause="queue") == 5
    assert (sample(metrics, "recovery_seconds_count"), sample(metrics, "recovery_seconds_sum")) == (1, 42)


async def test_an_operator_that_dies_after_the_end_of_an_attempt_counts_its_time_once(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        await cluster.clock.advance(99)
        spent = TimeSpent(lost={"load": 20.0}, productive=60.0)
        await cluster.ended("tune-1", 1, reason=Reason.TRAINER_ERROR, time=spent)
        account = cluster.job().status.time
        assert account == TimeAccount(
            productive_gpu_seconds=120,
            lost_gpu_seconds={"load": 40, "other": 40},
            waiting_seconds=account.waiting_seconds,
        )
        assert sample(cluster.metrics, "lost_gpu_seconds_total", cause="load", accelerator="cpu") == 40
        await cluster.kill()
        await cluster.start()
        await cluster.clock.advance(120)
        assert "tune-2" in cluster.api.names(JOBS)
        assert cluster.job().status.time == account
        assert sample(cluster.metrics, "lost_gpu_seconds_total", cause="load", accelerator="cpu") is None
        cluster.api.forget_calls()
        await cluster.clock.advance(600)
        assert [call for call in cluster.api.writes() if call.kind == "FineTuneJob"] == []
