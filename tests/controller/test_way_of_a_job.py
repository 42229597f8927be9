"""The whole operator on the fake API server, with real policies and a real plan: only kopf, kubelets and trainers are missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.progress import METRIC_STEP, Metric, TerminationMessage, TrainerStatus
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.inspection_reports import store_inspection
from finetune_operator.controller.kube import CONFIG_MAPS, EVENTS, FINETUNE_JOBS, JOBS, PODS, SERVICES, Unavailable
from finetune_operator.controller.main import Operator, build
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.settings import OperatorSettings
from finetune_operator.controller.shell import event_handlers
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.jobs.testing import make_report
from finetune_operator.testing import FakeApi, FakeClock, finetune_job, node, owned_by, pod

TINY_LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
SPEC = {
    "resources": {"accelerator": "cpu", "processes": 2, "pods": 2, "strategy": "ddp"},
    "training": {"maxSteps": 20, "maxLength": 128},
}


class Cluster:
    """The fake API server, the operator in it, and what kubelets and the Job controller would do, by hand."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.api.seed(node("one"))
        self.api.seed(node("two"))
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> Operator:
        """Start a process of the operator and let it become the leader."""

        async def watch(cache: Cache, queue: WorkQueue[JobKey], ready: asyncio.Event) -> None:
            on_job, on_child = event_handlers(cache, queue)
            handlers: dict[str, Callable[[str | None, dict[str, Any]], None]] = {"FineTuneJob": on_job, "Job": on_child}

            def tell(event: str, body: dict[str, Any]) -> None:
                if body["kind"] in handlers:
                    handlers[body["kind"]](event, body)

            self.api.on_event[:] = [tell]
            await asyncio.Event().wait()

        self.metrics = OperatorMetrics()
        operator = build(self.settings, self.api, self.clock, self.metrics, watch)
        self._running = asyncio.create_task(operator.lead())
        await self.clock.advance(1)
        return operator

    async def kill(self) -> None:
        """End the operator's process; the cluster goes on."""
        assert self._running is not None
        self.api.on_event.clear()
        self._running.cancel()
        await asyncio.wait({self._running})

    def submit(self, **spec: Any) -> None:
        self.api.seed(finetune_job(spec={**SPEC, **spec}))

    def job(self) -> FineTuneJob:
        body = self.api.find(FINETUNE_JOBS, "team", "tune")
        assert body is not None
        return FineTuneJob.from_manifest(body)

    def state(self) -> str:
        return str(self.job().status.state)

    async def inspected(self) -> None:
        """Let the inspect pod report and end."""
        report = make_report(self.job(), finished=self.clock.now())
        model = report.model.model_copy(update={"config": TINY_LLAMA})
        body = self.api.find(FINETUNE_JOBS, "team", "tune")
        assert body is not None
        await store_inspection(self.api, body, report.model_copy(update={"model": model}))
        await self.ended("tune-inspect", 0, component="inspect", attempt=None)

    async def running(self, name: str, attempt: int = 1) -> None:
        """Let both pods of an attempt run."""
        for index in range(2):
            self._pod(
                name,
                attempt,
                index,
                {
                    "phase": "Running",
                    "conditions": [{"type": "PodScheduled", "status": "True"}],
                    "containerStatuses": [{"name": "trainer", "state": {"running": {}}}],
                },
            )
        self.api.seed_status(JOBS, "team", name, {"active": 2, "ready": 2})
        await self.clock.advance(1)

    async def ended(
        self,
        name: str,
        code: int,
        *,
        component: str = "train",
        attempt: int | None = 1,
        reason: Reason = Reason.SUCCEEDED,
        result: str | None = None,
        said: str | None = None,
    ) -> None:
        """Let a child Job's first pod end and with it the Job."""
        message = TerminationMessage(
            reason=reason, exit_code=code, message="what happened.", step=20, result_uri=result
        )
        terminated = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "finishedAt": self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "message": said or message.model_dump_json(by_alias=True),
        }
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}],
        }
        self._pod(name, attempt, 0, status, component)
        if code:
            condition = {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": ""}
            self.api.seed_status(JOBS, "team", name, {"failed": 1, "conditions": [condition]})
        else:
            condition = {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": ""}
            self.api.seed_status(JOBS, "team", name, {"succeeded": 2, "conditions": [condition]})
        await self.clock.advance(1)

    def _pod(
        self, name: str, attempt: int | None, index: int, status: dict[str, Any], component: str = "train"
    ) -> None:
        owner = self.api.find(JOBS, "team", name)
        assert owner is not None
        body = owned_by(owner, pod(f"{name}-{index}-abc", attempt=attempt, component=component))
        body["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(index)
        body["spec"]["containers"][0]["name"] = "trainer"
        self.api.seed(body)
        self.api.seed_status(PODS, "team", f"{name}-{index}-abc", status, "kubelet")


@pytest.fixture
def settings(tmp_path: Path) -> OperatorSettings:
    (tmp_path / "ca.crt").write_text("PEM")
    return OperatorSettings(
        operator_namespace="system", pod_name="operator-0", inspect_image="inspect:1", trainer_image="trainer:1",
        progress_url="https://progress:8443", progress_ca_file=tmp_path / "ca.crt", tls_directory=tmp_path,
    )  # fmt: skip


@asynccontextmanager
async def operating(settings: OperatorSettings) -> AsyncIterator[Cluster]:
    cluster = Cluster(settings)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.kill()


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
