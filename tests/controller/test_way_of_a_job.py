"""The whole operator on the fake API server, with real policies and a real plan: only kopf, kubelets and trainers are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.architecture_trace import (
    ArchitectureTrace,
    TracedBytes,
    TracedLayers,
    TracedPass,
    TracedTensor,
)
from finetune_operator.api.progress import METRIC_STEP, Metric, TrainerStatus
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.kube import CONFIG_MAPS, EVENTS, FINETUNE_JOBS, JOBS, SERVICES, Unavailable
from finetune_operator.controller.settings import OperatorSettings
from finetune_operator.testing import finetune_job
from finetune_operator.testing.operated_cluster import SPEC, OperatedCluster, operating, operator_settings

UNKNOWN = {"model_type": "newest", "num_attention_heads": 2}
TRACE = ArchitectureTrace(
    model_type="newest",
    hidden=64,
    vocabulary=512,
    tied_embeddings=True,
    layers=(
        TracedLayers(
            copies=2,
            tensors=(TracedTensor(name="mix", kind="matrix", shape=(64, 64), copies=4, inputs=64, outputs=64),),
        ),
    ),
    outer=(TracedTensor(name="words", kind="embedding", shape=(512, 64)),),
    passes=tuple(
        TracedPass(
            method=method, precision=precision, kept=TracedBytes(per_token=2048), backward=TracedBytes(per_token=1024)
        )
        for method in ("full", "lora")
        for precision in ("bf16", "autocast")
    ),
    rank=16,
    adapter_parameters=16 * 2 * 4 * 128,
)


@pytest.fixture
def settings(tmp_path: Path) -> OperatorSettings:
    return operator_settings(tmp_path)


async def test_a_job_goes_its_way_from_apply_to_complete_and_then_rests(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        assert (cluster.state(), cluster.api.names(JOBS)) == ("Inspecting", ["tune-inspect"])
        await cluster.inspected()
        assert cluster.api.names(JOBS) == ["tune-1", "tune-inspect"], cluster.job().status.message
        assert cluster.api.names(SERVICES) == ["tune-1"]
        assert cluster.api.names(CONFIG_MAPS) == ["tune-1", "tune-inspection"]
        await cluster.running("tune-1")
        assert cluster.state() in ("Starting", "Running")
        await cluster.ended("tune-1", 0)
        assert cluster.state() == "Publishing"
        await cluster.ended("tune-publish", 0, component="publish", attempt=1, result="s3://models/tune")
        assert cluster.state() == "Complete"
        cluster.api.forget_calls()
        await cluster.clock.advance(3600)
        assert [call for call in cluster.api.writes() if call.kind != "Lease"] == []
        reasons = {
            str(event["reason"])
            for name in cluster.api.names(EVENTS)
            if (event := cluster.api.find(EVENTS, "team", name))
        }
        assert "Succeeded" in reasons


async def test_a_model_that_no_table_knows_is_inspected_again_in_the_trainers_image(settings: OperatorSettings) -> None:
    def inspects_with(cluster: OperatedCluster) -> list[str]:
        job = cluster.api.find(JOBS, "team", "tune-inspect")
        assert job is not None
        container = job["spec"]["template"]["spec"]["containers"][0]
        return [container["image"], *container["args"]]

    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        assert "--trace" not in inspects_with(cluster)
        await cluster.inspected(config=UNKNOWN)
        await cluster.clock.advance(10)
        assert (cluster.state(), cluster.api.names(JOBS)) == ("Inspecting", ["tune-inspect"])
        assert inspects_with(cluster)[:3] == [settings.trainer_image, "inspect", "--trace"]
        cluster.api.forget_calls()
        await cluster.clock.advance(40)
        assert [call for call in cluster.api.writes() if call.kind != "Lease"] == []
        await cluster.inspected(config=UNKNOWN, trace=TRACE)
        await cluster.clock.advance(5)
        assert cluster.api.names(JOBS) == ["tune-1", "tune-inspect"], cluster.job().status.message


async def test_a_rank_that_is_killed_makes_a_second_attempt(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        await cluster.ended("tune-1", 1, reason=Reason.TRAINER_ERROR)
        await cluster.clock.advance(120)
        assert "tune-2" in cluster.api.names(JOBS)
        assert [attempt.result for attempt in cluster.job().status.attempts] == ["Failed", "Running"]


async def test_row_content_and_secrets_are_in_no_status_event_log_or_metric(
    settings: OperatorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with operating(settings) as cluster:
        secret = {"name": "TOKEN", "value": "hunter2"}
        cluster.submit(pod={"env": [secret]}, credentials={"storage": {"secret": "bucket"}})
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        await cluster.ended("tune-1", 1, said="ValueError: the row 'my private diary' cannot be read with hunter2")
        await cluster.clock.advance(120)
        assert "tune-2" in cluster.api.names(JOBS)
        body = cluster.api.find(FINETUNE_JOBS, "team", "tune")
        assert body is not None
        events = [cluster.api.find(EVENTS, "team", name) for name in cluster.api.names(EVENTS)]
        shown = f"{body['status']} {events} {caplog.text} {cluster.metrics.render().decode()}"
        assert "diary" not in shown
        assert "hunter2" not in shown


async def test_an_operator_that_dies_in_mid_training_loses_and_doubles_nothing(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        before = {resource: cluster.api.names(resource) for resource in (JOBS, SERVICES, CONFIG_MAPS)}
        status = cluster.job().status
        await cluster.kill()
        await cluster.clock.advance(60)
        cluster.api.forget_calls()
        await cluster.start()
        await cluster.clock.advance(60)
        assert [call for call in cluster.api.writes() if call.kind != "Lease"] == []
        assert {resource: cluster.api.names(resource) for resource in before} == before
        assert cluster.job().status == status


async def test_a_job_that_ended_while_no_operator_ran_is_followed_up_by_the_next(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        await cluster.kill()
        await cluster.ended("tune-1", 0)
        await cluster.start()
        assert "tune-publish" in cluster.api.names(JOBS)


async def test_suspend_and_resume_change_the_same_attempt(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        for suspend in (True, False):
            body = cluster.api.find(FINETUNE_JOBS, "team", "tune")
            assert body is not None
            cluster.api.seed({**body, "spec": {**body["spec"], "run": {"suspend": suspend}}})
            await cluster.clock.advance(1)
            child = cluster.api.find(JOBS, "team", "tune-1")
            assert child is not None
            assert child["spec"]["suspend"] is suspend
            if suspend:
                await cluster.pods_gone("tune-1")
        assert cluster.api.names(JOBS) == ["tune-1", "tune-inspect"]


async def test_a_job_deleted_and_created_again_starts_afresh(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.running("tune-1")
        await cluster.api.delete(FINETUNE_JOBS, "team", "tune")
        await cluster.clock.advance(1)
        assert cluster.api.names(JOBS) == []
        cluster.submit()
        await cluster.clock.advance(1)
        assert cluster.api.names(JOBS) == ["tune-inspect"]
        assert cluster.job().status.attempts == []


async def test_an_equal_job_reuses_the_inspection_and_has_its_pods_within_a_second(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        first = cluster.job()
        output = {"output": {"uri": first.spec.output.uri}}
        cluster.api.seed(finetune_job("twin", spec={**SPEC, **output}))
        await cluster.clock.advance(1)
        assert "twin-1" in cluster.api.names(JOBS)
        assert "twin-inspect" not in cluster.api.names(JOBS)


async def test_an_api_server_that_is_away_for_a_moment_delays_the_job_and_no_more(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        for verb in ("apply", "get", "list", "replace"):
            cluster.api.fail(verb, Unavailable(503, "ServiceUnavailable", "away"), times=2)
        cluster.submit()
        await cluster.clock.advance(30)
        assert cluster.api.names(JOBS) == ["tune-inspect"]


async def test_progress_reports_show_in_the_status_and_survive_reconciling(settings: OperatorSettings) -> None:
    async with operating(settings) as cluster:
        cluster.submit()
        await cluster.clock.advance(1)
        await cluster.inspected()
        await cluster.kill()
        operator = await cluster.start()
        await cluster.running("tune-1")
        report = TrainerStatus(metrics=(Metric(name=METRIC_STEP, value="7"),))
        await operator.progress.writer.take(("team", "tune"), report, 1)
        await cluster.clock.advance(60)
        progress = cluster.job().status.progress
        assert progress is not None
        assert progress.step == 7
        assert cluster.state() == "Running"
