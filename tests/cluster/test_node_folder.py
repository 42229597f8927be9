"""Models in a folder of the node (`model.cache.node`), which a namespace of level `privileged` may mount."""

from __future__ import annotations

import pytest
from testbed.installation import ended, example
from testbed.model_volumes import downloads
from testbed.node import NodeCluster
from testbed.s3 import S3Server

NAMESPACE = "team-b"


@pytest.fixture
def privileged(team_cluster: NodeCluster, s3_server: S3Server) -> NodeCluster:
    """The cluster with such a namespace."""
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    team_cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    team_cluster.apply(s3_server.secret("s3-credentials", NAMESPACE))
    return team_cluster


def test_the_model_stays_in_the_node_s_folder_of_the_namespace(privileged: NodeCluster) -> None:
    cluster, name = privileged, "on-the-node"
    manifest = example(
        "sft-lora.yaml",
        metadata__name=name,
        metadata__namespace=NAMESPACE,
        spec__model__cache={"node": True},
        spec__training__maxSteps=2,
        spec__resources={"accelerator": "cpu"},
        spec__output__uri=f"s3://models/{name}",
    )
    cluster.apply(manifest)

    job = cluster.wait_for("ftj", name, ended, namespace=NAMESPACE, patience=420)

    assert job["status"]["state"] == "Complete", job["status"]["message"]
    assert len(downloads(cluster.directory / "node-models" / NAMESPACE)) == 1
    assert "downloaded into the cache" in cluster.kubectl("logs", f"job/{name}-1", "--namespace", NAMESPACE)
    assert "is in the cache" in cluster.kubectl("logs", f"job/{name}-publish", "--namespace", NAMESPACE)
