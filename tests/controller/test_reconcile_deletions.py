"""What reconcile does with jobs that go, and with what they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_operator.api.job import FineTuneJob
from finetune_operator.controller.kube import (
    FINETUNE_JOBS,
    JOBS,
    Conflict,
)
from finetune_operator.jobs.desired import ChildReference, Desired, RenderSettings
from finetune_operator.jobs.observed import Observed
from finetune_operator.testing import (
    indexed_job,
    owned_by,
    pod,
)
from finetune_operator.testing.reconciling import Harness, decide_attempt


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
