"""Reconciling on the fake API server: what is written, what is not, and whose objects are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import ConditionType
from finetune_operator.api.status import ProgressStatus
from finetune_operator.controller.cache import Cache
from finetune_operator.controller.kube import (
    CONFIG_MAPS,
    FINETUNE_JOBS,
    JOBS,
    PODS,
    SERVICES,
)
from finetune_operator.controller.reconcile import Outcome
from finetune_operator.jobs.desired import ChildReference, Desired, RenderSettings
from finetune_operator.jobs.observed import Observed
from finetune_operator.jobs.waiting import VOLUME_SECONDS
from finetune_operator.testing import (
    finetune_job,
    indexed_job,
    owned_by,
    pod,
)
from finetune_operator.testing.reconciling import Harness, decide_attempt, with_spec_hash


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


async def test_a_batch_job_whose_end_no_watch_told_does_not_wait_to_be_deleted_for_ever() -> None:
    def deleting(job: FineTuneJob, observed: Observed, render: RenderSettings) -> Desired:
        desired = decide_attempt(job, observed, render)
        if observed.children:
            return replace(desired, objects=(), deletions=(ChildReference("batch/v1", "Job", "tune-1"),))
        return desired

    harness = Harness()
    harness.submit()
    await harness.reconcile()
    harness.watching = False
    harness.decide = deleting
    for _ in range(3):
        await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]


async def test_a_plan_that_somebody_deleted_is_noticed_by_pods_that_wait_for_it() -> None:
    harness = Harness()
    harness.submit()
    await harness.reconcile()
    batch_job = harness.api.find(JOBS, "team", "tune-1")
    assert batch_job is not None
    scheduled = {"conditions": [{"type": "PodScheduled", "status": "True"}], "phase": "Pending"}
    harness.api.seed(owned_by(batch_job, pod("tune-1-0-abc", status=scheduled)))
    await harness.clock.advance(VOLUME_SECONDS)
    await harness.api.delete(CONFIG_MAPS, "team", "tune-1")
    await harness.reconcile()
    assert "tune-1" in harness.api.names(CONFIG_MAPS)


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
