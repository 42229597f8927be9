"""Seconds from a fault to the first new optimizer step of a running job, by phase, on a real cluster; steps and process-seconds lost.

    python bench/recovery.py [--runs 3] [--faults rank-killed pod-evicted]

Starts a node of this machine (root, Go the first time), an S3 server and the operator, and trains a tiny model in two pods (FSDP2 over gloo) that
are disturbed again and again. Images are on the node. Prints JSON, with the machine's load, since two cores are what imports compete for;
`account_of_the_job` is `status.time` at the end: process-seconds (there are no GPUs) by cause.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from testbed import image_build, image_store
from testbed.faults import evict, kill, rank_process
from testbed.helm import Helm
from testbed.installation import image_values, install, make_inputs, upload
from testbed.main_job import NAMESPACE, again, finish, pods_of, submit
from testbed.node import NodeCluster
from testbed.run_watch import RunWatch
from testbed.s3 import S3Server

NAME: Final = "recovery"
PROCESSES: Final = 2
STEPS_BETWEEN: Final = 12
"""Steps that an attempt makes before its fault: a checkpoint, and a few more to be lost."""
_DURATION: Final = re.compile(r"^(\S+) .*rank 0: (import|load|resume) (\d+\.\d) s$")


@dataclass(frozen=True)
class Recovery:
    """One fault, and the way back from it."""

    fault: str
    moments: dict[str, float]
    """When what was reached, in seconds since the epoch, in order."""
    steps_lost: int
    replay_seconds: float

    @property
    def seconds(self) -> float:
        """From the fault to the first new step."""
        times = list(self.moments.values())
        return times[-1] - times[0]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase, by what ends it."""
        times = list(self.moments.values())
        return {name: late - early for name, early, late in zip(list(self.moments)[1:], times, times[1:], strict=False)}


def disturb(cluster: NodeCluster, fault: str, attempt: int) -> float:
    """Do it, and return when it was done."""
    pods = pods_of(cluster, NAME, attempt)
    if fault == "rank-killed":
        victim = rank_process(cluster, NAMESPACE, pods[1])
        done = time.time()
        kill(victim)
    else:
        done = time.time()
        evict(cluster, NAMESPACE, pods[1])
    return done


def recovery_of(cluster: NodeCluster, watch: RunWatch, fault: str, attempt: int) -> Recovery:
    """Disturb that attempt and follow the next one to its first new step."""
    watch.wait_for_step(attempt, more=STEPS_BETWEEN)
    moments = {"fault": disturb(cluster, fault, attempt)}
    following = attempt + 1
    watch.wait_for_step(following, more=1)
    made = watch.steps(following)[0]
    moments["attempt-created"] = next(
        seen.time
        for seen in watch.states
        if any(a["number"] == following for a in seen.what.get("attempts", ())) and seen.time > moments["fault"]
    )
    first_pod = pods_of(cluster, NAME, following)[0]
    pod = cluster.get("pod", first_pod, NAMESPACE) or {}
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    moments["containers-running"] = max(seconds_of(started), moments["attempt-created"])
    for name, began, ended in rank_phases(cluster.kubectl("logs", first_pod, "--timestamps", "--namespace", NAMESPACE)):
        if name == "import":
            moments["rank-started"] = began
        moments[f"{name}ed" if name != "resume" else "resumed"] = ended
    moments["first-step"] = made.time
    lost = watch.steps_lost(following)
    watch.wait_for_step(following, more=lost + 1)
    steps = watch.steps(following)
    return Recovery(fault, moments, lost, steps[lost].time - steps[0].time if lost else 0.0)


def rank_phases(log: str) -> Iterator[tuple[str, float, float]]:
    """Yield what rank 0 says of its start: phase, beginning, end. `load` comes twice: downloads that imports did not hide, and the model."""
    for line in log.splitlines():
        if found := _DURATION.match(line):
            ended = seconds_of(found[1])
            yield found[2], ended - float(found[3]), ended


def seconds_of(text: str) -> float:
    """Return a time of Kubernetes, with any number of decimals, as seconds since the epoch."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + (float(f"0.{rest}") if rest else 0.0)


def figures_of(found: list[Recovery]) -> dict[str, Any]:
    """Medians over equal faults."""
    names = list(found[0].phases)
    replay = statistics.median(one.replay_seconds for one in found)
    seconds = statistics.median(one.seconds for one in found)
    return {
        "runs": len(found),
        "seconds_to_first_new_step": {
            "median": round(seconds, 1),
            "worst": round(max(one.seconds for one in found), 1),
        },
        "phases_seconds": {name: round(statistics.median(one.phases[name] for one in found), 1) for name in names},
        "steps_lost": [one.steps_lost for one in found],
        "process_seconds_lost": {"restart": round(seconds * PROCESSES, 1), "replay": round(replay * PROCESSES, 1)},
    }


def prepare(cluster: NodeCluster, folder: Path) -> S3Server:
    """Install the operator and upload what the job reads."""
    server = S3Server(cluster.directory)
    server.start()
    upload(server, make_inputs(folder / "inputs"))
    images = image_build.build(*image_build.IMAGES)
    for reference in images.values():
        image_store.load(reference)
    install(
        Helm(cluster.kubeconfig, cluster.directory),
        image_values(images["operator"], images["inspect"], images["trainer"]),
    )
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply(server.secret("s3-credentials", NAMESPACE))
    return server


def measure(cluster: NodeCluster, faults: list[str], runs: int) -> tuple[list[Recovery], dict[str, Any]]:
    """Disturb one job as often as wanted, in turns, so that a busy moment hits every fault; return the job's own account of time as well."""
    plan = faults * runs
    steps = (STEPS_BETWEEN + 10) * len(plan) + 40
    job = again(NAME, spec__training__maxSteps=steps, spec__run__retries=len(plan))
    submit(cluster, job)
    with RunWatch(cluster, NAMESPACE, NAME) as watch:
        found = [recovery_of(cluster, watch, fault, attempt) for attempt, fault in enumerate(plan, start=1)]
        job = finish(cluster, NAME)
    return found, job["status"]["time"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--faults", nargs="+", choices=["rank-killed", "pod-evicted"], default=["rank-killed", "pod-evicted"]
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cluster = NodeCluster(Path(name) / "cluster")
        server = None
        try:
            cluster.start()
            server = prepare(cluster, Path(name))
            found, account = measure(cluster, options.faults, options.runs)
        finally:
            if server is not None:
                server.stop()
            cluster.stop()
    figures: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "images": "present",
        "account_of_the_job": account,
        "faults": {fault: figures_of([one for one in found if one.fault == fault]) for fault in options.faults},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
