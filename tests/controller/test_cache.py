"""The cache: trimmed, by key, and right in spite of lists and watches that race."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from finetune_operator.api.constants import ATTEMPT_LABEL, COMPONENT_LABEL, JOB_LABEL
from finetune_operator.controller.cache import Cache, JobKey
from finetune_operator.testing import finetune_job, indexed_job, owned_by

KEY = JobKey("team", "tune")


def stored(body: dict[str, Any], version: int = 1, uid: str = "uid-1") -> dict[str, Any]:
    metadata = {
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **body["metadata"],
    }
    return {**body, "metadata": metadata}


def test_a_job_is_found_by_its_key_until_it_is_deleted() -> None:
    cache = Cache()
    assert cache.put_job("ADDED", stored(finetune_job())) == KEY
    assert cache.job(KEY) == stored(finetune_job())
    cache.put_job("DELETED", stored(finetune_job(), version=2))
    assert cache.job(KEY) is None


def test_managed_fields_and_the_last_applied_configuration_are_not_kept() -> None:
    cache = Cache()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"}
    cache.put_job(None, stored(finetune_job(metadata={"managedFields": [{}], "annotations": annotations})))
    body = cache.job(KEY)
    assert body is not None
    assert "managedFields" not in body["metadata"]
    assert body["metadata"]["annotations"] == {"mine": "1"}


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    cache = Cache()
    cache.put_job("MODIFIED", stored(finetune_job(status={"state": "Running"}), version=10))
    cache.put_job(None, stored(finetune_job(), version=9))
    body = cache.job(KEY)
    assert body is not None
    assert body["status"] == {"state": "Running"}


def test_the_end_of_a_job_does_not_remove_the_next_of_that_name() -> None:
    cache = Cache()
    cache.put_job(None, stored(finetune_job(), version=12, uid="new"))
    cache.put_job("DELETED", stored(finetune_job(), version=11, uid="old"))
    assert cache.job(KEY) is not None


def test_children_are_found_by_the_job_that_their_label_names() -> None:
    cache = Cache()
    owner = stored(finetune_job())
    assert (
        cache.put_child("ADDED", stored(owned_by(owner, indexed_job(status={"active": 2, "ready": 1})), uid="c")) == KEY
    )
    (child,) = cache.children(KEY)
    assert (child.job.name, child.job.component, child.job.attempt) == ("tune-1", "train", 1)
    assert (child.job.active, child.owner_uid) == (2, "uid-1")


def test_conditions_and_times_of_a_child_are_read() -> None:
    cache = Cache()
    condition = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T01:00:00Z"}
    status = {"conditions": [condition], "completionTime": "2026-01-01T01:00:00Z"}
    cache.put_child(None, stored(indexed_job(status=status)))
    (child,) = cache.children(KEY)
    assert child.job.has_condition("Complete")
    assert child.job.completed is not None
    assert (child.job.completed - child.job.created).total_seconds() == 3600


def test_a_child_that_is_being_deleted_is_known_as_such() -> None:
    cache = Cache()
    body = stored(indexed_job())
    cache.put_child(None, body)
    assert [child.job.deleting for child in cache.children(KEY)] == [False]
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T01:00:00Z", "resourceVersion": "2"}
    cache.put_child(None, body)
    assert [child.job.deleting for child in cache.children(KEY)] == [True]


def test_a_batch_job_without_our_labels_is_nobody_s_child() -> None:
    cache = Cache()
    body = stored(indexed_job())
    del body["metadata"]["labels"][JOB_LABEL]
    assert cache.put_child("ADDED", body) is None


def test_a_list_drops_what_the_watch_never_told_was_deleted() -> None:
    cache = Cache()
    cache.put_job(None, stored(finetune_job()))
    cache.put_child(None, stored(indexed_job()))
    assert cache.relist("FineTuneJob", [], cache.snapshot("FineTuneJob")) == {KEY}
    assert cache.relist("Job", [], cache.snapshot("Job")) == {KEY}
    assert (cache.job_keys(), cache.children(KEY)) == ((), ())


def test_a_list_does_not_drop_what_came_while_it_was_under_way() -> None:
    cache = Cache()
    before = cache.snapshot("FineTuneJob")
    cache.put_job("ADDED", stored(finetune_job()))
    assert cache.relist("FineTuneJob", [], before) == set()
    assert cache.job_keys() == (KEY,)


def test_a_list_does_not_drop_what_the_watch_has_told_anew_meanwhile() -> None:
    cache = Cache()
    cache.put_job(None, stored(finetune_job()))
    before = cache.snapshot("FineTuneJob")
    cache.put_job("MODIFIED", stored(finetune_job(), version=2))
    assert cache.relist("FineTuneJob", [], before) == set()
    assert cache.job_keys() == (KEY,)


@pytest.mark.parametrize("labels", [{COMPONENT_LABEL: "other"}, {ATTEMPT_LABEL: "first"}])
def test_a_batch_job_whose_labels_are_not_ours_is_no_child(labels: dict[str, str]) -> None:
    cache = Cache()
    body = stored(indexed_job(attempt=None))
    body["metadata"]["labels"] |= labels
    assert cache.put_child("ADDED", body) is None
    assert cache.children(KEY) == ()


def test_the_kind_of_every_event_and_list_is_told() -> None:
    heard: list[str] = []
    cache = Cache(heard.append)
    cache.put_job(None, stored(finetune_job()))
    cache.put_child(None, stored(indexed_job()))
    cache.relist("Job", [], cache.snapshot("Job"))
    assert heard == ["FineTuneJob", "Job", "Job"]


def test_jobs_are_counted_by_state() -> None:
    cache = Cache()
    cache.put_job(None, stored(finetune_job("a")))
    cache.put_job(None, stored(finetune_job("b", status={"state": "Running"})))
    assert cache.states() == {"Pending": 1, "Running": 1}


def test_a_job_with_three_children_takes_less_than_13_kib() -> None:
    """So that 5,000 of them stay below 64 MiB."""
    count = 1000
    cache = Cache()
    conditions = [{"type": f"Type{i}", "status": "True", "reason": "Reason", "message": "m" * 100} for i in range(8)]
    body = json.dumps(stored(finetune_job(status={"conditions": conditions})))
    child = json.dumps(stored(indexed_job(status={"active": 1})))
    tracemalloc.start()
    for i in range(count):
        job = json.loads(body)
        job["metadata"]["name"] = f"job-{i}"
        cache.put_job(None, job)
        for attempt in range(3):
            part = json.loads(child)
            part["metadata"]["name"] = f"job-{i}-{attempt}"
            part["metadata"]["labels"][JOB_LABEL] = f"job-{i}"
            cache.put_child(None, part)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < count * 13 * 2**10
