"""The main job on the node's cluster: submitted, waited for, and what it left in the bucket.

It is examples/sft-lora.yaml with 100 steps instead of 40 (10 s), so that something can go wrong in the middle more than once, and it tells its steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testbed.installation import OPERATOR_NAMESPACE, ended, example
from testbed.node import NodeCluster
from testbed.run_watch import EVENTS_ENVIRONMENT, RunWatch
from testbed.s3 import S3Server

NAMESPACE = "team-a"
PATIENCE = 420.0
"""Seconds. A training takes 40 s on 2 idle cores, most of it imports."""
CLAIM = "models"
"""A PersistentVolumeClaim of NAMESPACE for models, and the folder of it below the cluster's."""
STEPS = 100
INTERVAL = 10
"""Steps between checkpoints, by the example."""


def submit(cluster: NodeCluster, manifest: dict[str, Any]) -> str:
    """What a user does; returns the job's name."""
    manifest["metadata"]["namespace"] = NAMESPACE
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return str(manifest["metadata"]["name"])


def finish(cluster: NodeCluster, name: str, state: str = "Complete") -> dict[str, Any]:
    """Wait for the job's end, which must be `state`."""
    job = cluster.wait_for("ftj", name, ended, namespace=NAMESPACE, patience=PATIENCE)
    assert job["status"]["state"] == state, json.dumps(job["status"], indent=1)
    return job


def suspend(cluster: NodeCluster, name: str, wanted: bool) -> None:
    """Set `run.suspend`."""
    patch = json.dumps({"spec": {"run": {"suspend": wanted}}})
    cluster.kubectl("patch", "ftj", name, "--namespace", NAMESPACE, "--type=merge", "-p", patch)


def manifest_of(server: S3Server, prefix: str) -> dict[str, Any]:
    """The manifest of a published model."""
    body = server.client().get_object(Bucket="models", Key=f"{prefix}/manifest.json")["Body"].read()
    return dict(json.loads(body))


def adapter_digest(server: S3Server, prefix: str) -> str:
    """The sha256 of a published adapter's weights."""
    files = {entry["name"]: entry["sha256"] for entry in manifest_of(server, prefix)["files"]}
    return str(next(digest for name, digest in files.items() if name.endswith("adapter_model.safetensors")))


def main_manifest(**changes: Any) -> dict[str, Any]:
    """The main job."""
    told = {"spec__training__maxSteps": STEPS, "spec__pod__env": EVENTS_ENVIRONMENT}
    return example("sft-lora.yaml", **{**told, **changes})


def again(name: str, **changes: Any) -> dict[str, Any]:
    """The main job under another name, with a result of its own."""
    return main_manifest(metadata__name=name, spec__output__uri=f"s3://models/{name}", **changes)


def pods_of(cluster: NodeCluster, name: str, attempt: int) -> list[str]:
    """The names of an attempt's pods, by rank."""
    selector = f"finetune-operator.dev/job={name},finetune-operator.dev/attempt={attempt},finetune-operator.dev/component=train"
    return sorted(pod["metadata"]["name"] for pod in cluster.list("pods", NAMESPACE, selector))


@dataclass(frozen=True)
class Story:
    """A job at its end, and what was seen of it on the way there."""

    job: dict[str, Any]
    watch: RunWatch

    def attempt(self, number: int) -> dict[str, Any]:
        """An attempt in status."""
        return dict(next(a for a in self.job["status"]["attempts"] if a["number"] == number))

    def ending(self, number: int) -> tuple[str, str, bool]:
        """How an attempt ended: result, reason, charged."""
        attempt = self.attempt(number)
        return attempt["result"], attempt.get("reason", ""), attempt["charged"]


def watch_to_the_end(
    cluster: NodeCluster, manifest: dict[str, Any], disturb: Callable[[RunWatch], object] = lambda watch: None
) -> Story:
    """Submit a job, `disturb` it, and wait until it is Complete all the same."""
    name = submit(cluster, manifest)
    with RunWatch(cluster, NAMESPACE, name) as watch:
        disturb(watch)
        job = finish(cluster, name)
    return Story(job, watch)


def interrupt(cluster: NodeCluster, name: str) -> Story:
    """Train with the operator killed and the job suspended in mid-training, the model kept in a claim."""

    def state(wanted: str) -> Callable[[dict[str, Any]], bool]:
        return lambda job: job["status"].get("state") == wanted

    def disturb(watch: RunWatch) -> None:
        watch.wait_for_step(attempt=1)
        cluster.kubectl("delete", "pods", "--all", "--namespace", OPERATOR_NAMESPACE, "--grace-period=0", "--force")
        suspend(cluster, name, True)
        cluster.wait_for("ftj", name, state("Suspended"), namespace=NAMESPACE, patience=180)
        cluster.wait_for(
            "job", f"{name}-1", lambda job: not job.get("status", {}).get("active"), namespace=NAMESPACE, patience=180
        )
        suspend(cluster, name, False)

    manifest = again(name, spec__model__cache={"persistentVolumeClaim": CLAIM})
    return watch_to_the_end(cluster, manifest, disturb)
