"""The whole operator on the fake API server, with real policies and a real plan: kopf, kubelets and trainers are the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from finetune_operator.api.chains import starting_at
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.time_spent import TimeSpent
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.inspection_reports import store_inspection
from finetune_operator.controller.kube import (
    FINETUNE_JOBS,
    JOBS,
    PODS,
    Body,
    Resource,
)
from finetune_operator.controller.main import Operator, build
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.settings import OperatorSettings
from finetune_operator.controller.shell import event_handlers
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.jobs.testing import make_report
from finetune_operator.jobs.times import text_of
from finetune_operator.testing.builders import finetune_job, node, owned_by, pod
from finetune_operator.testing.clock import FakeClock
from finetune_operator.testing.fake_api import FakeApi

TINY_LLAMA: Final = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
SPEC: Final = {
    "resources": {"accelerator": "cpu", "processes": 2, "pods": 2, "strategy": "ddp"},
    "training": {"maxSteps": 20, "maxLength": 128},
}


def operator_settings(folder: Path) -> OperatorSettings:
    """Return the least that an operator needs; its files lie in `folder`."""
    (folder / "ca.crt").write_text("PEM")
    return OperatorSettings(
        operator_namespace="system",
        pod_name="operator-0",
        inspect_image="inspect:1",
        trainer_image="trainer:1",
        progress_url="https://progress:8443",
        progress_ca_file=folder / "ca.crt",
        tls_directory=folder,
    )


class OperatedCluster:
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
        if self._running is None:
            return
        self.api.on_event.clear()
        self._running.cancel()
        await asyncio.wait({self._running})

    def submit(self, **spec: Any) -> None:
        """Store the job as a user does; `spec` is laid over a small one."""
        self.api.seed(finetune_job(spec={**SPEC, **spec}))

    def job(self) -> FineTuneJob:
        """Return the job as it is stored."""
        return FineTuneJob.from_manifest(self._found(FINETUNE_JOBS, "tune"))

    def state(self) -> str:
        """Return its `status.state`."""
        return str(self.job().status.state)

    async def inspected(self, at: str | None = None, **facts: Any) -> None:
        """Let the inspect pod report and end; `facts` are laid over what it tells of a tiny Llama, `at` is where the result of job base is."""
        job = self.job()
        job = job.model_copy(update={"spec": starting_at(job.spec, {"base": at})}) if at else job
        report = make_report(job, finished=self.clock.now())
        model = report.model.model_copy(update={"config": TINY_LLAMA, **facts})
        await store_inspection(self.api, self._found(FINETUNE_JOBS, "tune"), report.model_copy(update={"model": model}))
        await self.ended("tune-inspect", 0, component="inspect", attempt=None)

    async def running(self, name: str, attempt: int = 1) -> None:
        """Let both pods of an attempt run."""
        now = text_of(self.clock.now())
        for index in range(2):
            self._pod(
                name,
                attempt,
                index,
                {
                    "phase": "Running",
                    "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now}],
                    "containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": now}}}],
                },
            )
        self.api.seed_status(JOBS, "team", name, {"active": 2, "ready": 2})
        await self.clock.advance(1)

    async def pods_gone(self, name: str) -> None:
        """Let the pods of a suspended Job end and vanish."""
        for index in range(2):
            await self.api.delete(PODS, "team", f"{name}-{index}-abc")
        self.api.seed_status(JOBS, "team", name, {"active": 0, "ready": 0})
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
        peak: int | None = None,
        time: TimeSpent | None = None,
    ) -> None:
        """Let a child Job's first pod end and with it the Job."""
        message = TerminationMessage(
            reason=reason,
            exit_code=code,
            message="what happened.",
            step=20,
            result_uri=result,
            peak_memory_bytes=peak,
            time=time,
        )
        before = (self.api.find(PODS, "team", f"{name}-0-abc") or {}).get("status", {})
        ran: Body = next(({**found["state"].get("running", {})} for found in before.get("containerStatuses", ())), {})
        terminated = {
            **ran,
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "finishedAt": text_of(self.clock.now()),
            "message": said or message.model_dump_json(by_alias=True),
        }
        status = {
            "phase": "Failed" if code else "Succeeded",
            "conditions": before.get("conditions", []),
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
        owner = self._found(JOBS, name)
        body = owned_by(owner, pod(f"{name}-{index}-abc", attempt=attempt, component=component))
        body["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(index)
        body["spec"]["containers"][0]["name"] = "trainer"
        self.api.seed(body)
        self.api.seed_status(PODS, "team", f"{name}-{index}-abc", status, "kubelet")

    def _found(self, resource: Resource, name: str) -> Body:
        body = self.api.find(resource, "team", name)
        if body is None:
            raise AssertionError(f"there is no {resource.kind} {name}")
        return body


@asynccontextmanager
async def operating(settings: OperatorSettings) -> AsyncIterator[OperatedCluster]:
    """Run an operator in a cluster of its own."""
    cluster = OperatedCluster(settings)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.kill()
