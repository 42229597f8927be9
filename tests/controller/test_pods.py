"""Pod objects as reports: what explains a job's state is read, and nothing of anybody else's pods."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.cache import CachedChild, child_of
from finetune_operator.controller.pods import pod_reports
from finetune_operator.jobs.observed import PodReport
from finetune_operator.jobs.times import moment_of
from finetune_operator.testing import FakeApi, indexed_job, owned_by, pod


def report_of(status: dict[str, Any], **metadata: Any) -> PodReport:
    """Return the report of one pod of attempt 1 with that status."""
    api = FakeApi()
    owner = api.seed(indexed_job())
    body = owned_by(owner, pod("tune-1-0-abc", status=status))
    body["metadata"] |= metadata
    child = child_of(owner)
    assert child is not None
    (report,) = pod_reports([api.seed(body)], [child])
    return report


def container(**state: Any) -> dict[str, Any]:
    return {"name": "trainer", "state": state}


def test_a_running_pod_on_a_node_is_scheduled_and_running() -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}
    report = report_of({"phase": "Running", "conditions": [scheduled], "containerStatuses": [container(running={})]})
    assert (report.phase, report.scheduled, report.running, report.attempt) == ("Running", True, True, 1)


def test_the_times_of_a_pod_are_read_whether_it_runs_or_has_ended() -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}
    started = {"startedAt": "2026-01-01T00:00:09Z"}
    ended = {**started, "finishedAt": "2026-01-01T00:01:00Z", "exitCode": 0}
    for state in ({"running": started}, {"terminated": ended}):
        report = report_of({"phase": "Running", "conditions": [scheduled], "containerStatuses": [container(**state)]})
        assert (report.scheduled_at, report.started) == (
            moment_of("2026-01-01T00:00:05Z"),
            moment_of("2026-01-01T00:00:09Z"),
        )
    waiting = {**scheduled, "status": "False", "reason": "Unschedulable"}
    assert report_of({"phase": "Pending", "conditions": [waiting]}).scheduled_at is None


@pytest.mark.parametrize("place", ["labels", "annotations"])
def test_the_completion_index_is_read_from_label_or_annotation(place: str) -> None:
    report = report_of({"phase": "Pending"}, **{place: {"batch.kubernetes.io/job-completion-index": "3"}})
    assert report.index == 3


def test_the_scheduler_s_words_are_kept_while_it_finds_no_node() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: too few GPUs",
    }
    assert report_of({"phase": "Pending", "conditions": [condition]}).unschedulable == "0/3 nodes: too few GPUs"


def test_why_a_container_does_not_start_is_kept() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    report = report_of({"phase": "Pending", "containerStatuses": [container(waiting=waiting)]})
    assert (report.waiting_reason, report.waiting_message) == ("ImagePullBackOff", "no such image")


def test_that_a_container_is_being_created_explains_nothing() -> None:
    report = report_of({"phase": "Pending", "containerStatuses": [container(waiting={"reason": "ContainerCreating"})]})
    assert report.waiting_reason == ""


def test_an_init_container_that_cannot_start_is_the_reason_of_the_pod() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": "secret not found"}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [{"name": "setup", "state": {"waiting": waiting}}],
        "containerStatuses": [container(waiting={"reason": "PodInitializing"})],
    }
    assert report_of(status).waiting_reason == "CreateContainerConfigError"


def ended(**terminated: Any) -> PodReport:
    return report_of({"phase": "Failed", "containerStatuses": [container(terminated=terminated)]})


def test_the_trainer_s_last_words_are_read() -> None:
    words = TerminationMessage(reason=Reason.GPU_OUT_OF_MEMORY, exit_code=45, message="out of memory", step=7)
    text = f"some line before\n{words.model_dump_json(by_alias=True)}\n"
    report = ended(exitCode=45, reason="Error", finishedAt="2026-01-01T00:00:00Z", message=text)
    assert (report.exit_code, report.container_reason, report.termination) == (45, "Error", words)
    assert report.finished is not None


@pytest.mark.parametrize("text", ["", "Traceback: row content", '{"other": "json"}', "[1]"])
def test_other_last_words_are_passed_over(text: str) -> None:
    assert ended(exitCode=1, reason="Error", message=text).termination is None


def test_an_out_of_memory_kill_is_told_by_the_kubelet_s_reason() -> None:
    report = ended(exitCode=137, reason="OOMKilled")
    assert (report.exit_code, report.container_reason) == (137, "OOMKilled")


def test_a_deletion_is_known_while_the_job_still_holds_the_pod() -> None:
    assert report_of({"phase": "Failed"}, deletionTimestamp="2026-01-01T12:02:00Z").deleted
    assert not report_of({"phase": "Failed"}).deleted


def test_a_pod_that_kubernetes_took_away_says_so() -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    report = report_of({"phase": "Failed", "reason": "Evicted", "conditions": [condition]})
    assert (report.disrupted, report.container_reason, report.exit_code) == ("Eviction API: evicting", "Evicted", None)


def test_pods_of_others_with_the_same_labels_are_not_reported() -> None:
    api = FakeApi()
    child = child_of(api.seed(indexed_job()))
    assert isinstance(child, CachedChild)
    assert pod_reports([api.seed(pod("impostor"))], [child]) == ()
