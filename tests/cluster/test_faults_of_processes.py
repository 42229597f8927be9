"""Processes that die in a running job: the first pod's, every pod's at once, and one that the kernel kills for memory.

One job lives through all of it; each test looks at one of its attempts.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from testbed.faults import kill, use_up_memory
from testbed.main_job import INTERVAL, NAMESPACE, Story, adapter_digest, again, pods_of, watch_to_the_end
from testbed.node import NodeCluster
from testbed.run_watch import RunWatch
from testbed.s3 import S3Server

NAME = "killed"
FIRST_KILLED, ALL_KILLED, OUT_OF_MEMORY, LAST = 1, 2, 3, 4


@pytest.fixture(scope="module")
def story(team_cluster: NodeCluster) -> Story:
    """The job at its end."""

    def processes(attempt: int) -> list[int]:
        return [team_cluster.container_pid(pod, NAMESPACE) for pod in pods_of(team_cluster, NAME, attempt)]

    def disturb(watch: RunWatch) -> None:
        watch.wait_for_step(FIRST_KILLED)
        victim = processes(FIRST_KILLED)[0]
        watch.wait_for_checkpoint(FIRST_KILLED)
        kill(victim)

        watch.wait_for_step(ALL_KILLED)
        kill(*processes(ALL_KILLED))

        watch.wait_for_step(OUT_OF_MEMORY)
        limit = resources(team_cluster, OUT_OF_MEMORY)["memoryBytes"]
        use_up_memory(team_cluster, NAMESPACE, pods_of(team_cluster, NAME, OUT_OF_MEMORY)[1], limit)

    return watch_to_the_end(team_cluster, again(NAME, spec__run__retries=2), disturb)


def resources(cluster: NodeCluster, attempt: int) -> dict[str, Any]:
    """What a pod of the attempt asks for, by its plan."""
    found = cluster.get("configmap", f"{NAME}-{attempt}", NAMESPACE) or {}
    return dict(json.loads(found["data"]["plan.json"])["plan"]["resources"])


def test_the_first_pod_killed_costs_a_retry_and_less_than_an_interval(story: Story) -> None:
    assert story.ending(FIRST_KILLED) == ("Failed", "RankKilled", True)
    assert story.attempt(FIRST_KILLED)["exitCode"] == 137
    assert 0 < story.watch.steps_lost(ALL_KILLED) <= INTERVAL


def test_every_pod_killed_at_once_costs_a_retry_and_less_than_an_interval(story: Story) -> None:
    assert story.ending(ALL_KILLED) == ("Failed", "RankKilled", True)
    assert 0 < story.watch.steps_lost(OUT_OF_MEMORY) <= INTERVAL


def test_a_rank_killed_for_memory_is_told_from_one_that_was_killed_and_gets_more(
    story: Story, team_cluster: NodeCluster
) -> None:
    assert story.ending(OUT_OF_MEMORY) == ("Failed", "HostOutOfMemory", False)
    assert 0 <= story.watch.steps_lost(LAST) <= INTERVAL
    before, after = (resources(team_cluster, attempt) for attempt in (OUT_OF_MEMORY, LAST))
    assert after["memoryBytes"] == pytest.approx(1.5 * before["memoryBytes"], rel=0.01)
    job = team_cluster.get("job", f"{NAME}-{LAST}", NAMESPACE) or {}
    asked = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert asked["limits"]["memory"] == asked["requests"]["memory"] == f"{after['memoryBytes'] // 2**20}Mi"


def test_the_new_plan_is_shown_and_told(story: Story, team_cluster: NodeCluster) -> None:
    assert story.job["status"]["plan"]["reasons"][0].startswith("replan 1 of 3 for host memory")
    events = [e for e in team_cluster.list("events", NAMESPACE) if e["involvedObject"]["name"] == NAME]
    assert {"RankKilled", "HostOutOfMemory", "Replanned"} <= {event["reason"] for event in events}
    assert any("attempt 3 ended" in message and "HostOutOfMemory" in message for message in story.watch.messages())


def test_the_job_is_complete_with_the_same_losses(story: Story, undisturbed: Story, s3_server: S3Server) -> None:
    assert story.ending(LAST)[0] == "Succeeded"
    assert story.watch.losses() == undisturbed.watch.losses()
    assert adapter_digest(s3_server, NAME) == adapter_digest(s3_server, "word-problems")
