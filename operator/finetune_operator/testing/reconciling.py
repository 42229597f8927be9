"""The reconciler on a fake API server, for tests of what it writes: its decision is a small one of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from finetune_operator.api.constants import SPEC_HASH_ANNOTATION
from finetune_operator.api.history import EMPTY_HISTORY
from finetune_operator.api.inspection import ProgressEndpoint
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.pods import Pod
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import Condition, FineTuneJobStatus
from finetune_operator.controller.accounts import Accounts
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.documents import DocumentStore
from finetune_operator.controller.events import EventRecorder
from finetune_operator.controller.history import HistoryKeeper
from finetune_operator.controller.kube import (
    FINETUNE_JOBS,
    JOBS,
)
from finetune_operator.controller.limits import LimitsReader
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.reconcile import Outcome, Reconciler
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.jobs.desired import Desired, JobEvent, RenderSettings
from finetune_operator.jobs.names import digest
from finetune_operator.jobs.observed import Observed
from finetune_operator.planner.inventory import Inventory
from finetune_operator.testing.builders import config_map, finetune_job, indexed_job, owned_by
from finetune_operator.testing.clock import FakeClock
from finetune_operator.testing.fake_api import FakeApi

KEY: Final = JobKey("team", "tune")
RENDER: Final = RenderSettings(
    "inspect:1", "trainer:1", ProgressEndpoint(url="https://operator:8443", certificate_authority="PEM")
)


class NoInventory:
    """A cluster that offers nothing."""

    async def read(self, pod: Pod) -> Inventory:
        """Return an empty inventory."""
        return Inventory()


def wanted_objects(job: FineTuneJob, suspend: bool = False) -> tuple[dict[str, Any], ...]:
    """Return a ConfigMap, a Service and a batch Job that the job owns."""
    owner = {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "metadata": {"name": job.metadata.name, "uid": job.metadata.uid},
    }
    batch_job = indexed_job(job.metadata.name, namespace=job.metadata.namespace)
    batch_job["spec"]["suspend"] = suspend
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{job.metadata.name}-1", "namespace": job.metadata.namespace},
        "spec": {"clusterIP": "None", "selector": {"a": "b"}},
    }
    files = config_map(f"{job.metadata.name}-1", {"other": "{}"}, namespace=job.metadata.namespace)
    return tuple(with_spec_hash(owned_by(owner, body)) for body in (files, service, batch_job))


def with_spec_hash(body: dict[str, Any]) -> dict[str, Any]:
    """Return the object with the digest of its content, as children have it."""
    return {**body, "metadata": {**body["metadata"], "annotations": {SPEC_HASH_ANNOTATION: digest(body)}}}


def decide_attempt(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
    """Return one attempt, and a status that tells what was seen: the least that has all parts."""
    accepted = Condition(
        type=ConditionType.ACCEPTED,
        status="False" if observed.foreign else "True",
        reason=Reason.CHILD_NOT_OURS if observed.foreign else Reason.ACCEPTED,
        message=", ".join(observed.foreign),
        last_transition_time=observed.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        observed_generation=job.metadata.generation,
    )
    status = FineTuneJobStatus(
        state=JobState.RUNNING,
        observed_generation=job.metadata.generation,
        conditions=[accepted],
        message=f"{len(observed.children)} children, {len(observed.pods)} pods",
    )
    started = not observed.children
    events = (JobEvent("Normal", Reason.CREATING_PODS, "attempt 1"),) if started else ()
    return Desired(status, wanted_objects(job, job.spec.run.suspend), events=events, requeue_after=30.0)


class Harness:
    """A reconciler on a fake API server, its cache fed by the server's events unless `watching` is False."""

    def __init__(self, decide: Callable[..., Desired] = decide_attempt) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.cache = Cache()
        self.queue: WorkQueue[JobKey] = WorkQueue(self.clock, jitter=lambda: 0.0)
        self.watching = True
        self.api.on_event.append(self._watch)
        self.decide = decide
        self.restart()

    def restart(self) -> None:
        """Begin as a new process with what the cache has."""
        observer = Observer(
            self.api,
            self.cache,
            DocumentStore(self.api),
            NoInventory(),
            LimitsReader(self.api, self.clock),
            lambda: EMPTY_HISTORY,
            self.clock,
        )
        self.reconciler = Reconciler(
            api=self.api,
            cache=self.cache,
            observer=observer,
            events=EventRecorder(self.api, self.clock, "operator-0"),
            accounts=Accounts(OperatorMetrics()),
            history=HistoryKeeper(self.api, self.clock, "system", "history"),
            decide=lambda *arguments: self.decide(*arguments),
            render=lambda: RENDER,
            clock=self.clock,
        )

    def _watch(self, event: str, body: dict[str, Any]) -> None:
        if not self.watching:
            return
        if body["kind"] == FINETUNE_JOBS.kind:
            self.queue.add(self.cache.put_job(event, body))
        elif body["kind"] == JOBS.kind and (key := self.cache.put_child(event, body)):
            self.queue.add(key)

    def submit(self, **parts: Any) -> dict[str, Any]:
        """Store the job as a user does; return it."""
        return self.api.seed(finetune_job(**parts))

    async def reconcile(self) -> Outcome:
        """Reconcile the job once."""
        return await self.reconciler.reconcile(KEY)

    def status(self) -> dict[str, Any]:
        """Return the stored status."""
        body = self.api.find(FINETUNE_JOBS, *KEY)
        return dict(body["status"]) if body else {}

    def condition(self, kind: str) -> dict[str, Any]:
        """Return the stored condition of that type."""
        return next(found for found in self.status()["conditions"] if found["type"] == kind)
