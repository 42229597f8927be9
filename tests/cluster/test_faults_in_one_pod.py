"""Ranks that torchrun holds together in one pod: one of them killed, torchrun itself killed, one of them stopped.

One job lives through all of it, with the model of an earlier job's claim; each test looks at one of its attempts.
"""

from __future__ import annotations

import os
import signal

import pytest
from testbed.faults import agent_process, kill, rank_process
from testbed.main_job import CLAIM, INTERVAL, NAMESPACE, Story, adapter_digest, again, pods_of, watch_to_the_end
from testbed.model_volumes import downloads
from testbed.node import NodeCluster
from testbed.run_watch import EVENTS_ENVIRONMENT, RunWatch
from testbed.s3 import S3Server

NAME = "in-one-pod"
RANK_KILLED, AGENT_KILLED, STOPPED, LAST = 1, 2, 3, 4
PATIENCE = {"name": "FINETUNE_HANG_SECONDS", "value": "15"}


@pytest.fixture(scope="module")
def kept_before(interrupted: Story, team_cluster: NodeCluster) -> list[str]:
    """What the claim has of the earlier job."""
    return downloads(team_cluster.directory / CLAIM)


@pytest.fixture(scope="module")
def story(team_cluster: NodeCluster, kept_before: list[str]) -> Story:
    """The job at its end."""

    def disturb(watch: RunWatch) -> None:
        for attempt in (RANK_KILLED, AGENT_KILLED, STOPPED):
            watch.wait_for_step(attempt)
            (pod,) = pods_of(team_cluster, NAME, attempt)
            rank, agent = (find(team_cluster, NAMESPACE, pod) for find in (rank_process, agent_process))
            watch.wait_for_checkpoint(attempt)
            if attempt == STOPPED:
                os.kill(rank, signal.SIGSTOP)
            else:
                kill(rank if attempt == RANK_KILLED else agent)

    manifest = again(
        NAME,
        spec__resources__pods=1,
        spec__model__cache={"persistentVolumeClaim": CLAIM},
        spec__pod__env=[*EVENTS_ENVIRONMENT, PATIENCE],
    )
    return watch_to_the_end(team_cluster, manifest, disturb)


def test_a_killed_rank_costs_a_retry_and_less_than_an_interval(story: Story) -> None:
    assert story.ending(RANK_KILLED) == ("Failed", "RankKilled", True)
    assert "was killed by SIGKILL" in story.attempt(RANK_KILLED)["message"]
    assert 0 <= story.watch.steps_lost(AGENT_KILLED) <= INTERVAL


def test_a_killed_torchrun_takes_its_ranks_along_and_costs_a_retry(story: Story) -> None:
    assert story.ending(AGENT_KILLED) == ("Failed", "RankKilled", True)
    assert "the ranks' parent (torchrun) was killed" in story.attempt(AGENT_KILLED)["message"]
    assert 0 <= story.watch.steps_lost(STOPPED) <= INTERVAL


def test_a_stopped_rank_is_named_its_stacks_are_kept_and_the_job_goes_on(story: Story, s3_server: S3Server) -> None:
    hung = story.attempt(STOPPED)
    assert story.ending(STOPPED) == ("Failed", "Hang", True)
    assert "stopped by a signal" in hung["message"]
    assert 0 <= story.watch.steps_lost(LAST) <= INTERVAL
    bucket, _, folder = hung["logUri"].removeprefix("s3://").partition("/")
    kept = {entry["Key"] for entry in s3_server.client().list_objects_v2(Bucket=bucket, Prefix=folder)["Contents"]}
    names = {key.rsplit("/", 1)[-1] for key in kept}
    assert {"stacks-00000.txt", "stacks-00001.txt", "rank-00000.log", "rank-00001.log"} <= names
    assert any(name.startswith("flight-record-") for name in names)
    stacks = [
        s3_server.client().get_object(Bucket=bucket, Key=f"{folder}/stacks-0000{rank}.txt")["Body"].read().decode()
        for rank in range(2)
    ]
    (stopped,) = [text for text in stacks if "state T (stopped)" in text]
    assert "Thread" in stopped, "py-spy reads it under the restricted policy"


def test_the_model_of_the_claim_was_not_downloaded_again(
    story: Story, kept_before: list[str], team_cluster: NodeCluster
) -> None:
    assert len(kept_before) == 1
    assert downloads(team_cluster.directory / CLAIM) == kept_before
    log = team_cluster.kubectl("logs", f"job/{NAME}-{LAST}", "--namespace", NAMESPACE)
    assert "the model is in the cache" in log
    assert "downloaded into the cache" not in log


def test_the_job_is_complete_with_the_same_losses(story: Story, undisturbed: Story, s3_server: S3Server) -> None:
    assert story.ending(LAST)[0] == "Succeeded"
    assert story.watch.losses() == undisturbed.watch.losses()
    assert adapter_digest(s3_server, NAME) == adapter_digest(s3_server, "word-problems")
