"""What a cluster looked like when a test failed: written to a file, since nothing of it is left when one comes to look."""

from __future__ import annotations

from pathlib import Path

from testbed.control_plane import ControlPlane

QUESTIONS = (
    ("get", "pods", "--all-namespaces", "--output=wide"),
    ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    ("get", "finetunejobs", "--all-namespaces", "--output=yaml"),
    ("get", "jobs", "--all-namespaces", "--output=yaml"),
)


def write_diagnosis(cluster: ControlPlane, file: Path) -> None:
    """Write the state of pods and jobs, and the last lines that every pod printed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as report:
        for question in QUESTIONS:
            answer = cluster.try_kubectl(*question)
            report.write(f"\n# kubectl {' '.join(question)}\n{answer.stdout}{answer.stderr}")
        names = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}"
        for pod in cluster.try_kubectl("get", "pods", "--all-namespaces", "--output", names).stdout.split():
            namespace, name = pod.split("/")
            log = cluster.try_kubectl("logs", name, "--namespace", namespace, "--all-containers", "--tail=200")
            report.write(f"\n# the last lines of pod {pod}\n{log.stdout}{log.stderr}")
