"""Reconciling on the fake API server: what is written, what is not, and what happens when the server says no."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.constants import JOB_LABEL, PLAN_FILE, SPEC_HASH_ANNOTATION
from finetune_operator.api.inspection import ProgressEndpoint
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import Condition, FineTuneJobStatus, ProgressStatus
from finetune_operator.controller.accounts import Accounts
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.controller.documents import DocumentStore
from finetune_operator.controller.events import EventRecorder
from finetune_operator.controller.kube import (
    CONFIG_MAPS,
    EVENTS,
    FINETUNE_JOBS,
    JOBS,
    PODS,
    SERVICES,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    TooManyRequests,
    Unavailable,
)
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.observe import Observer
from finetune_operator.controller.reconcile import REFUSED_SECONDS, Outcome, Reconciler
from finetune_operator.controller.status_body import comparable
from finetune_operator.controller.worker import relist, resync, work
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.jobs.desired import ChildReference, Desired, JobEvent, RenderSettings
from finetune_operator.jobs.names import digest
from finetune_operator.jobs.observed import Observed
from finetune_operator.planner.inventory import Inventory
from finetune_operator.testing import (
    FakeApi,
    FakeClock,
    config_map,
    finetune_job,
    indexed_job,
    owned_by,
    pod,
    timed_out,
)

KEY = JobKey("team", "tune")
RENDER = RenderSettings(
    "inspect:1", "trainer:1", ProgressEndpoint(url="https://operator:8443", certificate_authority="PEM")
)


class NoInventory:
    async def read(self) -> Inventory:
        return Inventory()


def wanted_objects(job: FineTuneJob, suspend: bool = False) -> tuple[dict[str, Any], ...]:
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
    return {**body, "metadata": {**body["metadata"], "annotations": {SPEC_HASH_ANNOTATION: digest(body)}}}


def decide_attempt(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
    """One attempt, and a status that tells what was seen: the least that has all parts."""
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
        observer = Observer(self.api, self.cache, DocumentStore(self.api), NoInventory(), self.clock)
        self.reconciler = Reconciler(
            api=self.api,
            cache=self.cache,
            observer=observer,
            events=EventRecorder(self.api, self.clock, "operator-0"),
            accounts=Accounts(OperatorMetrics()),
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
        return self.api.seed(finetune_job(**parts))

    async def reconcile(self) -> Outcome:
        return await self.reconciler.reconcile(KEY)

    def status(self) -> dict[str, Any]:
        body = self.api.find(FINETUNE_JOBS, "team", "tune")
        assert body is not None
        return dict(body["status"])

    def condition(self, kind: str) -> dict[str, Any]:
        return next(condition for condition in self.status()["conditions"] if condition["type"] == kind)


async def test_the_first_run_applies_the_objects_in_order_and_then_the_status_once() -> None:
    harness = Harness()
    harness.submit()
    assert await harness.reconcile() == Outcome("done", 30.0)
    writes = [(call.verb, call.kind, call.subresource) for call in harness.api.writes()]
    assert writes == [
        ("apply", "ConfigMap", ""),
        ("apply", "Service", ""),
        ("apply", "Job", ""),
        ("apply", "FineTuneJob", "status"),
        ("apply", "Event", ""),
    ]


async def test_a_second_run_writes_nothing() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    await harness.reconcile()
    harness.api.forget_calls()
    await harness.clock.advance(3600)
    await harness.reconcile()
    assert harness.api.writes() == []


async def test_a_second_run_on_a_cache_that_saw_none_of_the_first_one_s_writes_changes_nothing() -> None:
    harness = Harness()
    harness.submit()
    harness.watching = False
    await harness.reconcile()
    before = harness.api.find(JOBS, "team", "tune-1")
    harness.restart()
    await harness.reconcile()
    assert harness.api.find(JOBS, "team", "tune-1") == before
    assert harness.api.names(JOBS) == ["tune-1"]


async def test_a_new_process_with_an_empty_cache_of_children_takes_over_what_is_there() -> None:
    harness = Harness()
    body = harness.submit()
    await harness.reconcile()
    await harness.reconcile()
    harness.cache = Cache()
    current = harness.api.find(FINETUNE_JOBS, "team", "tune")
    assert current is not None
    harness.cache.put_job(None, current)
    harness.restart()
    harness.api.forget_calls()
    await harness.reconcile()
    assert [call for call in harness.api.writes() if call.kind in ("Job", "Service", "ConfigMap")] == []
    assert body["metadata"]["uid"] == current["metadata"]["uid"]


async def test_a_batch_job_of_that_name_that_belongs_to_someone_else_is_a_condition_and_never_touched() -> None:
    harness = Harness()
    harness.submit()
    theirs = harness.api.seed(indexed_job())
    await harness.reconcile()
    assert harness.api.find(JOBS, "team", "tune-1") == theirs
    assert harness.condition("Accepted")["reason"] == "ChildNotOurs"
    assert "Job/tune-1" in harness.condition("Accepted")["message"]


@pytest.mark.parametrize("resource", [CONFIG_MAPS, SERVICES])
async def test_any_other_object_of_a_child_s_name_is_not_touched_either(resource: Any) -> None:
    harness = Harness()
    harness.submit()
    spec = {"data": {"theirs": "1"}} if resource is CONFIG_MAPS else {"spec": {"selector": {"their": "s"}}}
    metadata = {"name": "tune-1", "namespace": "team"}
    theirs = harness.api.seed({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **spec})
    await harness.reconcile()
    assert harness.api.find(resource, "team", "tune-1") == theirs
    assert harness.condition("Accepted")["message"] == f"{resource.kind}/tune-1"


async def test_children_of_a_predecessor_of_that_name_are_not_ours() -> None:
    harness = Harness()
    old = {"apiVersion": "x", "kind": "FineTuneJob", "metadata": {"name": "tune", "uid": "old"}}
    theirs = harness.api.seed(owned_by(old, indexed_job()))
    harness.submit()
    await harness.reconcile()
    assert harness.api.find(JOBS, "team", "tune-1") == theirs
    assert harness.status()["message"] == "0 children, 0 pods"


async def test_suspend_changes_only_that_field_of_a_running_job() -> None:
    harness = Harness()
    body = harness.submit()
    await harness.reconcile()
    before = harness.api.find(JOBS, "team", "tune-1")
    harness.api.seed({**body, "spec": {**body["spec"], "run": {"suspend": True}}})
    await harness.reconcile()
    after = harness.api.find(JOBS, "team", "tune-1")
    assert before is not None
    assert after is not None
    assert after["spec"] == {**before["spec"], "suspend": True}
    assert after["metadata"]["labels"] == before["metadata"]["labels"]


async def test_a_newer_operator_that_renders_another_template_leaves_a_running_job_alone() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    before = harness.api.find(JOBS, "team", "tune-1")

    def newer(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        desired = decide_attempt(job, observed, render)
        *others, batch_job = desired.objects
        batch_job["spec"]["template"]["spec"]["containers"][0]["image"] = "trainer:2"
        return replace(desired, objects=(*others, batch_job))

    harness.decide = newer
    harness.restart()
    assert (await harness.reconcile()).result == "done"
    assert harness.api.find(JOBS, "team", "tune-1") == before


async def test_a_service_that_changes_is_applied_again() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()

    def changed(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        desired = decide_attempt(job, observed, render)
        desired.objects[1]["spec"]["publishNotReadyAddresses"] = True
        return replace(desired, objects=tuple(with_spec_hash(body) for body in desired.objects))

    harness.decide = changed
    await harness.reconcile()
    service = harness.api.find(SERVICES, "team", "tune-1")
    assert service is not None
    assert service["spec"]["publishNotReadyAddresses"] is True


async def test_a_batch_job_that_somebody_deleted_is_created_again() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    await harness.api.delete(JOBS, "team", "tune-1")
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]


async def test_after_a_resync_a_service_that_somebody_deleted_is_created_again() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    await harness.api.delete(SERVICES, "team", "tune-1")
    harness.reconciler.distrust()
    await harness.reconcile()
    assert harness.api.names(SERVICES) == ["tune-1"]


async def test_progress_written_by_another_replica_is_neither_copied_nor_lost() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    progress = finetune_job(status={"progress": {"step": 7}})
    await harness.api.apply(progress, subresource="status", manager="finetune-operator-progress")

    def with_progress(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        desired = decide_attempt(job, observed, render)
        status = desired.status.model_copy(update={"progress": ProgressStatus(step=1), "message": "new"})
        return replace(desired, status=status)

    harness.decide = with_progress
    await harness.reconcile()
    assert harness.status()["progress"] == {"step": 7}


async def test_a_deleted_job_is_left_to_the_owner_references() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    await harness.api.delete(FINETUNE_JOBS, "team", "tune")
    harness.api.forget_calls()
    assert (await harness.reconcile()).result == "gone"
    assert harness.api.calls == []
    assert harness.api.names(JOBS) == []


async def test_a_job_that_goes_while_it_is_reconciled_leaves_nothing_behind() -> None:
    harness = Harness()
    harness.submit()
    harness.watching = False
    await harness.api.delete(FINETUNE_JOBS, "team", "tune")
    assert (await harness.reconcile()).result == "gone"


async def test_a_job_created_again_does_not_get_the_status_of_its_predecessor() -> None:
    harness = Harness()
    harness.submit()
    harness.watching = False
    await harness.api.delete(FINETUNE_JOBS, "team", "tune")
    harness.submit()
    with pytest.raises(Conflict, match="modified"):
        await harness.reconcile()
    successor = harness.api.find(FINETUNE_JOBS, "team", "tune")
    assert successor is not None
    assert "status" not in successor


@pytest.mark.parametrize(
    "error", [Forbidden(403, "Forbidden", "exceeded quota: gpus"), Invalid(422, "Invalid", "webhook denied")]
)
async def test_what_the_server_refuses_is_said_in_the_status_and_tried_again_slowly(error: ApiError) -> None:
    harness = Harness()
    harness.submit()
    harness.api.fail("apply", error, kind="Job")
    assert await harness.reconcile() == Outcome("refused", REFUSED_SECONDS)
    assert harness.condition("Stalled")["reason"] == "ClusterRefused"
    assert error.message in harness.status()["message"]
    notes = [harness.api.find(EVENTS, "team", name) for name in harness.api.names(EVENTS)]
    assert any(note and note["reason"] == "ClusterRefused" for note in notes)
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]
    assert "ClusterRefused" not in str(harness.status())


async def test_a_right_that_the_operator_lacks_is_said_in_the_status() -> None:
    harness = Harness()
    harness.submit()
    harness.api.fail("list", Forbidden(403, "Forbidden", "cannot list resource configmaps"), kind="ConfigMap")
    assert await harness.reconcile() == Outcome("refused", REFUSED_SECONDS)
    assert "cannot list resource configmaps" in harness.condition("Stalled")["message"]
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]


async def test_a_config_map_of_ours_that_somebody_broke_is_named_without_its_content() -> None:
    harness = Harness()
    owner = harness.submit()
    broken = config_map("tune-1", {PLAN_FILE: '{"version": "my secret"}'}, labels={JOB_LABEL: "tune"})
    harness.api.seed(owned_by(owner, broken))
    assert (await harness.reconcile()).result == "refused"
    message = harness.condition("Stalled")["message"]
    assert "ConfigMap team/tune-1, plan.json: unreadable at" in message
    assert "secret" not in message


async def test_a_spec_that_cannot_be_read_is_a_condition_that_names_the_field() -> None:
    harness = Harness()
    harness.submit(spec={"training": {"epochs": -1}})
    assert (await harness.reconcile()).result == "invalid"
    assert harness.condition("Accepted")["reason"] == "InvalidSpec"
    assert "training.epochs" in harness.status()["message"]
    harness.api.forget_calls()
    await harness.reconcile()
    assert harness.api.writes() == []


async def test_deletions_remove_our_objects_and_spare_others() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    harness.api.seed(indexed_job("tune", 2))

    def deleting(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        doomed = tuple(ChildReference("batch/v1", "Job", name) for name in ("tune-1", "tune-2", "tune-3"))
        return Desired(decide_attempt(job, observed, render).status, deletions=doomed)

    harness.decide = deleting
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-2"]


async def test_a_job_whose_time_is_over_is_deleted_with_its_children() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    harness.decide = lambda *arguments: replace(decide_attempt(*arguments), delete_job=True)
    await harness.reconcile()
    assert (harness.api.names(FINETUNE_JOBS), harness.api.names(JOBS)) == ([], [])


async def test_pods_are_seen_when_they_belong_to_our_batch_job_and_not_by_their_label_alone() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    batch_job = harness.api.find(JOBS, "team", "tune-1")
    assert batch_job is not None
    harness.api.seed(owned_by(batch_job, pod("tune-1-0-abc")))
    harness.api.seed(pod("impostor"))
    await harness.reconcile()
    assert harness.status()["message"] == "1 children, 1 pods"


async def test_pods_of_a_job_that_has_ended_are_listed_once_and_not_again() -> None:
    def ended(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        desired = decide_attempt(job, observed, render)
        complete = desired.status.conditions[0].model_copy(update={"type": ConditionType.COMPLETE})
        return replace(desired, status=desired.status.model_copy(update={"conditions": [complete], "message": "done"}))

    harness = Harness(ended)
    harness.submit()
    for _ in range(3):
        await harness.reconcile()
    harness.api.forget_calls()
    await harness.reconcile()
    assert [call for call in harness.api.calls if call.kind == PODS.kind] == []


def test_a_status_that_differs_only_in_progress_and_times_is_the_same() -> None:
    old = {
        "state": "Running",
        "progress": {"step": 1},
        "conditions": [{"type": "A", "status": "True", "lastTransitionTime": "1"}],
    }
    new = {
        "state": "Running",
        "attempts": [],
        "conditions": [{"type": "A", "status": "True", "lastTransitionTime": "2"}],
    }
    assert comparable(old) == comparable(new)
    assert comparable(old) != comparable({**new, "conditions": [{"type": "A", "status": "False"}]})


_ERRORS = st.sampled_from(
    [
        Conflict(409, "Conflict", "changed"),
        TooManyRequests(429, "TooManyRequests", "slow down", 2.0),
        Unavailable(500, "InternalError", "etcd"),
        Forbidden(403, "Forbidden", "quota"),
        Invalid(422, "Invalid", "webhook"),
        timed_out(),
    ]
)
_FAULTS = st.lists(
    st.tuples(st.sampled_from(["apply", "get", "list"]), _ERRORS, st.integers(0, 4), st.booleans()), max_size=6
)


@settings(deadline=None, max_examples=60)
@given(_FAULTS)
def test_whatever_fails_in_between_the_end_is_the_same_and_then_nothing_is_written(
    faults: list[tuple[str, ApiError, int, bool]],
) -> None:
    asyncio.run(converge(faults))


async def converge(faults: list[tuple[str, ApiError, int, bool]]) -> None:
    undisturbed, disturbed = Harness(), Harness()
    for verb, error, skip, carried_out in faults:
        disturbed.api.fail(verb, error, skip=skip, carried_out=carried_out)
    for harness in (undisturbed, disturbed):
        harness.submit()
        worker = asyncio.create_task(
            work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: None)
        )
        await harness.clock.advance(600)
        harness.api.forget_calls()
        await harness.clock.advance(3600)
        assert harness.api.writes() == []
        harness.queue.close()
        await worker
    for resource in (JOBS, SERVICES, CONFIG_MAPS):
        one, other = (harness.api.find(resource, "team", "tune-1") for harness in (undisturbed, disturbed))
        assert one is not None
        assert other is not None
        assert (one.get("spec"), one.get("data")) == (other.get("spec"), other.get("data"))
    assert comparable(undisturbed.status()) == comparable(disturbed.status())


async def test_an_error_of_one_job_does_not_end_the_worker_and_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        raise KeyError("row content: my secret")

    harness = Harness(broken)
    results: list[str] = []
    worker = asyncio.create_task(
        work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: results.append(result))
    )
    harness.submit()
    await harness.clock.advance(0.1)
    assert (results, worker.done()) == (["failed"], False)
    assert "KeyError at" in caplog.text
    assert "secret" not in caplog.text
    harness.decide = decide_attempt
    await harness.clock.advance(1)
    assert "done" in results
    harness.queue.close()
    await worker


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    harness = Harness()
    harness.api.fail("apply", TooManyRequests(429, "TooManyRequests", "slow down", 20.0))
    results: list[str] = []
    worker = asyncio.create_task(
        work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: results.append(result))
    )
    harness.submit()
    await harness.clock.advance(19)
    assert results == ["retried"]
    await harness.clock.advance(2)
    assert "done" in results
    harness.queue.close()
    await worker


async def test_a_resync_finds_what_the_watch_missed_and_looks_at_every_job_within_its_interval() -> None:
    harness = Harness()
    harness.watching = False
    seen: list[JobKey] = []

    class Looks:
        async def reconcile(self, key: JobKey) -> Outcome:
            seen.append(key)
            return Outcome("done")

        def distrust(self) -> None:
            seen.append(JobKey("", "distrust"))

    syncing = asyncio.create_task(
        resync(harness.api, harness.cache, harness.queue, Looks(), harness.clock, namespaces=(), every_seconds=600)
    )
    worker = asyncio.create_task(work(harness.queue, Looks(), harness.clock, lambda result, seconds: None))
    for name in ("a", "b", "c"):
        harness.api.seed(finetune_job(name))
    await harness.clock.advance(601)
    assert seen == [JobKey("", "distrust")]
    await harness.clock.advance(600)
    assert set(seen) >= {JobKey("team", name) for name in ("a", "b", "c")}
    syncing.cancel()
    harness.queue.close()
    await worker


async def test_a_list_that_fails_delays_the_resync_and_does_not_end_it() -> None:
    harness = Harness()
    harness.api.fail("list", timed_out())
    syncing = asyncio.create_task(
        resync(
            harness.api,
            harness.cache,
            harness.queue,
            harness.reconciler,
            harness.clock,
            namespaces=(),
            every_seconds=600,
        )
    )
    await harness.clock.advance(601)
    assert not syncing.done()
    syncing.cancel()


async def test_listing_finds_jobs_and_children_of_the_named_namespaces_only() -> None:
    harness = Harness()
    harness.watching = False
    harness.submit()
    harness.api.seed(finetune_job("other", "elsewhere"))
    harness.api.seed(indexed_job())
    await relist(harness.api, harness.cache, ("team",))
    assert harness.cache.job_keys() == (KEY,)
    assert [child.job.name for child in harness.cache.children(KEY)] == ["tune-1"]
