"""The ground the end-to-end tests stand on: when these fail, look no further."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from testbed.buildah import inspect, layer_sizes
from testbed.control_plane import ControlPlane
from testbed.helm import Helm
from testbed.node import NodeCluster
from testbed.pods import ended, outcome, restricted_pod
from testbed.prometheus import Prometheus
from testbed.s3 import S3Server

TORCH = """
import os, torch, deepspeed, transformers, importlib.util
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
assert ShareMemCommBuilder().load().__file__.startswith("/opt/venv")
assert os.getuid() == 65532 and importlib.util.find_spec("kopf") is None
"""
PROGRAMS = {
    "operator": """
import os, importlib.util, kopf, kubernetes.aio.dynamic, finetune_operator.api
assert os.getuid() == 65532 and importlib.util.find_spec("torch") is None
""",
    "inspect": """
import os, importlib.util, obstore, pyarrow.parquet, tokenizers, jinja2, huggingface_hub, finetune_trainer
pyarrow.parquet.write_table(pyarrow.table({"row": [1, 2]}), "/tmp/rows.parquet", compression="zstd")
assert pyarrow.parquet.read_table("/tmp/rows.parquet").to_pylist() == [{"row": 1}, {"row": 2}]
assert os.getuid() == 65532 and importlib.util.find_spec("torch") is None
""",
    "trainer": TORCH,
}
PUBLIC_SLIM_BASE = 130e6  # bytes of python:3.11-slim-bookworm, unpacked


def run_pod(cluster: NodeCluster, pod: dict[str, Any], patience: float = 120) -> tuple[int, str]:
    """Run a pod to its end and return its exit code and last words."""
    cluster.apply(pod)
    metadata = pod["metadata"]
    return outcome(cluster.wait_for("pod", metadata["name"], ended, namespace=metadata["namespace"], patience=patience))


def test_a_control_plane_serves_without_a_node(control_plane: ControlPlane) -> None:
    assert control_plane.list("nodes") == []
    assert control_plane.get("serviceaccount", "default") is not None


def test_an_error_of_the_api_server_reaches_the_test(control_plane: ControlPlane) -> None:
    answer = control_plane.try_kubectl("get", "configmap", "absent")

    assert answer.returncode == 1
    assert 'configmaps "absent" not found' in answer.stderr


@pytest.mark.parametrize("name", ["operator", "inspect", "trainer"])
def test_an_image_works_as_non_root_on_a_read_only_root(
    node_cluster: NodeCluster, images: Any, namespace: str, name: str
) -> None:
    pod = restricted_pod(name, images[name], PROGRAMS[name], namespace=namespace)

    assert run_pod(node_cluster, pod) == (0, "")


@pytest.mark.parametrize("name", ["operator", "inspect"])
def test_the_small_images_stay_below_300_megabytes_on_the_public_base(images: Any, name: str) -> None:
    manifest = inspect(images[name])["OCIv1"]

    assert manifest["config"]["User"] == "65532:65532"
    assert sum(layer_sizes(images[name])[1:]) + PUBLIC_SLIM_BASE < 300e6


def test_a_pod_reads_and_writes_a_bucket_until_the_bucket_refuses(
    node_cluster: NodeCluster, s3_server: S3Server, images: Any, namespace: str
) -> None:
    program = """
import os, obstore
store = obstore.store.S3Store("ground", client_options={"allow_http": True})
store.put("greeting", b"hello")
print(store.get("greeting").bytes())
"""
    folder = s3_server.create_bucket("ground")
    node_cluster.apply(s3_server.secret("s3", namespace))
    pod = restricted_pod("accepted", images.inspect, program, namespace=namespace, secret="s3")
    assert run_pod(node_cluster, pod)[0] == 0
    assert (folder / "greeting").read_bytes() == b"hello"

    s3_server.refuse("ground")
    pod = restricted_pod("refused", images.inspect, program, namespace=namespace, secret="s3")
    code, words = run_pod(node_cluster, pod)
    assert code == 1
    assert "AccessDenied" in words


def test_prometheus_samples_every_metrics_port_of_an_annotated_pod(
    node_cluster: NodeCluster, prometheus: Prometheus, images: Any, namespace: str
) -> None:
    program = """
import time
from prometheus_client import CollectorRegistry, Gauge, start_http_server
for rank in range(2):
    registry = CollectorRegistry()
    Gauge("ground_rank", "the rank of a port", registry=registry).set(rank)
    start_http_server(9400 + rank, registry=registry)
time.sleep(600)
"""
    annotations = {"prometheus.io/scrape": "true"}
    pod = restricted_pod(
        "sampled", images.operator, program, namespace=namespace, metrics_ports=[9400, 9401], annotations=annotations
    )
    node_cluster.apply(pod)

    prometheus.wait_for(f'count(ground_rank{{namespace="{namespace}"}}) == 2', patience=120)

    samples = prometheus.query(f'ground_rank{{namespace="{namespace}"}}')
    assert {(sample.labels["port"], sample.value) for sample in samples} == {("metrics-0", 0.0), ("metrics-1", 1.0)}


def test_a_killed_process_is_seen_as_exit_137(node_cluster: NodeCluster, images: Any, namespace: str) -> None:
    pod = restricted_pod("victim", images.operator, "import time; time.sleep(600)", namespace=namespace)
    node_cluster.apply(pod)
    node_cluster.wait_for("pod", "victim", lambda found: found["status"].get("phase") == "Running", namespace=namespace)

    os.kill(node_cluster.container_pid("victim", namespace), signal.SIGKILL)

    assert outcome(node_cluster.wait_for("pod", "victim", ended, namespace=namespace))[0] == 137


def test_helm_talks_to_the_cluster(helm: Helm) -> None:
    assert helm("list", "--all-namespaces", "--output=json").strip() == "[]"
