"""What Kubernetes does to a running job: eviction, drain, a stop with a short grace period. Nothing of it is the job's fault, and nothing is charged.

One job lives through all of it, with `run.retries: 0`; each test looks at one of its attempts.
"""

from __future__ import annotations

from typing import Any

import pytest
from testbed.faults import drain, evict, uncordon
from testbed.main_job import INTERVAL, NAMESPACE, Story, adapter_digest, again, pods_of, watch_to_the_end
from testbed.node import NodeCluster
from testbed.run_watch import RunWatch
from testbed.s3 import S3Server

NAME = "taken-away"
GRACE_SECONDS = 15
EVICTED, DRAINED, STOPPED, LAST = 1, 2, 3, 4


@pytest.fixture(scope="module")
def story(team_cluster: NodeCluster, s3_server: S3Server) -> Story:
    """The job at its end."""

    def disturb(watch: RunWatch) -> None:
        watch.wait_for_step(EVICTED)
        evict(team_cluster, NAMESPACE, pods_of(team_cluster, NAME, EVICTED)[1])

        watch.wait_for_step(DRAINED)
        try:
            drain(team_cluster, f"finetune-operator.dev/job={NAME}")
            team_cluster.wait_for(
                "ftj", NAME, lambda job: "cannot be scheduled" in said(job), namespace=NAMESPACE, patience=180
            )
        finally:
            uncordon(team_cluster)

        watch.wait_for_checkpoint(STOPPED)
        with s3_server.frozen():  # no save can be finished in time
            pod = pods_of(team_cluster, NAME, STOPPED)[0]
            team_cluster.kubectl("delete", "pod", pod, f"--grace-period={GRACE_SECONDS}", "--namespace", NAMESPACE)

    manifest = again(NAME, spec__run__retries=0)
    return watch_to_the_end(team_cluster, manifest, disturb)


def said(job: dict[str, Any]) -> str:
    return str(job.get("status", {}).get("message", ""))


def warnings(cluster: NodeCluster, reason: str) -> list[str]:
    return [
        event["message"]
        for event in cluster.list("events", NAMESPACE)
        if (event["involvedObject"]["name"], event["type"], event["reason"]) == (NAME, "Warning", reason)
    ]


def test_an_evicted_pod_saves_and_the_job_goes_on_from_the_step_at_which_it_was(
    story: Story, team_cluster: NodeCluster
) -> None:
    assert story.ending(EVICTED) == ("Failed", "Disrupted", False)
    # Of a pod that is gone already, only the Job's words are left.
    assert any(words in story.attempt(EVICTED)["message"] for words in ("Eviction API", "DisruptionTarget"))
    assert story.watch.steps_lost(DRAINED) == 0
    assert any("attempt 1 failed after step" in text for text in warnings(team_cluster, "Disrupted"))
    assert any(
        "attempt 2 loads the model" in message and "attempt 1 ended after step" in message
        for message in story.watch.messages()
    )


def test_a_drained_node_is_waited_for_in_the_scheduler_s_words(story: Story) -> None:
    assert story.ending(DRAINED) == ("Failed", "Disrupted", False)
    assert story.watch.steps_lost(STOPPED) == 0
    assert any(
        "attempt 3: 2 of 2 pods cannot be scheduled" in message and "unschedulable" in message
        for message in story.watch.messages()
    )


def test_a_grace_period_that_is_too_short_costs_no_more_than_an_interval(
    story: Story, team_cluster: NodeCluster
) -> None:
    assert story.ending(STOPPED) == ("Failed", "Terminated", False)
    assert "at the end of its grace period" in story.attempt(STOPPED)["message"]
    assert 0 < story.watch.steps_lost(LAST) <= INTERVAL
    assert any("attempt 3 failed" in text for text in warnings(team_cluster, "Terminated"))


def test_the_job_is_complete_without_a_single_retry_and_with_the_same_losses(
    story: Story, undisturbed: Story, s3_server: S3Server
) -> None:
    assert story.ending(LAST)[0] == "Succeeded"
    assert story.watch.losses() == undisturbed.watch.losses()
    assert adapter_digest(s3_server, NAME) == adapter_digest(s3_server, "word-problems")
