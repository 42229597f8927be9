"""Seconds from `kubectl apply` of a job whose inspection is known to its training pods, against a bare Indexed Job on the same cluster.

    python bench/apply_to_pods.py [--jobs 10]

Starts a control plane with GPU nodes that exist in the API only (needs Go the first time; no root) and the operator as a process. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from testbed.control_plane import ControlPlane
from testbed.fake_nodes import add_fake_nodes
from testbed.gpu_jobs import inspect, manifest
from testbed.operator_process import OperatorProcess, install_crd

TRAIN = "finetune-operator.dev/component=train"


def seconds_to_pods(cluster: ControlPlane, body: dict[str, Any], selector: str) -> float:
    """Apply `body` and wait for its first pod; kubectl's own start (about 0.1 s) counts on both sides of the comparison."""
    started = time.monotonic()
    cluster.apply(body)
    while not cluster.list("pods", "default", selector):
        if time.monotonic() - started > 60:
            raise SystemExit(f"no pod for {selector} after 60 s")
    return time.monotonic() - started


def bare_job(name: str) -> dict[str, Any]:
    """The least that makes one pod through the same Job controller."""
    container = {"name": "main", "image": "example/none:1"}
    template = {"metadata": {"labels": {"bare": name}}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"completionMode": "Indexed", "completions": 1, "parallelism": 1, "template": template},
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median and worst, rounded."""
    return {"median": round(statistics.median(values), 3), "worst": round(max(values), 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = ControlPlane(Path(folder) / "cluster")
        try:
            cluster.start()
            install_crd(cluster)
            add_fake_nodes(cluster, 8)
            operator = OperatorProcess(cluster)
            operator.start()
            first = manifest("first", seconds=1)
            cluster.apply(first)
            inspect(cluster, operator, first)
            ours, bare = [], []
            for number in range(options.jobs):
                job = copy.deepcopy(first)
                job["metadata"]["name"] = name = f"known-{number}"
                ours.append(seconds_to_pods(cluster, job, f"finetune-operator.dev/job={name},{TRAIN}"))
                bare.append(seconds_to_pods(cluster, bare_job(f"bare-{number}"), f"bare=bare-{number}"))
        finally:
            cluster.stop()
    print(json.dumps({"jobs": options.jobs, "apply_to_pods_seconds": summary(ours), "bare_job_seconds": summary(bare)}))


if __name__ == "__main__":
    main()
