"""examples/sft-lora.yaml on the node's cluster: submitted, waited for, and what it left in the bucket."""

from __future__ import annotations

import json
from typing import Any

from testbed.installation import ended, example, step_of
from testbed.node import NodeCluster
from testbed.s3 import S3Server

NAMESPACE = "team-a"
PATIENCE = 420.0
"""Seconds. A training takes about 100 s on 2 cores, most of it imports."""


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


def reach_step(cluster: NodeCluster, name: str, step: int) -> None:
    """Wait until the job has reported that step."""
    job = cluster.wait_for(
        "ftj", name, lambda job: step_of(job) >= step or ended(job), namespace=NAMESPACE, patience=PATIENCE
    )
    assert not ended(job), job["status"]["message"]


def manifest_of(server: S3Server, prefix: str) -> dict[str, Any]:
    """The manifest of a published model."""
    body = server.client().get_object(Bucket="models", Key=f"{prefix}/manifest.json")["Body"].read()
    return dict(json.loads(body))


def adapter_digest(server: S3Server, prefix: str) -> str:
    """The sha256 of a published adapter's weights."""
    files = {entry["name"]: entry["sha256"] for entry in manifest_of(server, prefix)["files"]}
    return str(next(digest for name, digest in files.items() if name.endswith("adapter_model.safetensors")))


def again(name: str, **changes: Any) -> dict[str, Any]:
    """The main job under another name, with a result of its own."""
    return example("sft-lora.yaml", metadata__name=name, spec__output__uri=f"s3://models/{name}", **changes)
