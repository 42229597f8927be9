"""What goes wrong in a real cluster, done on purpose: processes killed, pods evicted, nodes drained, memory used up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from testbed.node import NAME, NodeCluster
from testbed.processes import TestbedError, until

_HOG = """
import os, sys, time
for _ in range({processes}):
    if os.fork() == 0:
        block = bytearray({size})
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def evict(cluster: NodeCluster, namespace: str, pod: str) -> None:
    """Evict a pod through the Eviction API, as a cluster autoscaler does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def drain(cluster: NodeCluster, selector: str) -> None:
    """Cordon the node and evict those of its pods; returns when they are gone."""
    arguments = ["--pod-selector", selector, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=180s"]
    cluster.kubectl("drain", NAME, *arguments)


def uncordon(cluster: NodeCluster) -> None:
    """Open the node for pods again."""
    cluster.kubectl("uncordon", NAME)


def kill_pods(cluster: NodeCluster, namespace: str, *pods: str) -> None:
    """SIGKILL the first process of each pod's container; the kernel kills all others of its process namespace with it."""
    for victim in [cluster.container_pid(pod, namespace) for pod in pods]:
        os.kill(victim, signal.SIGKILL)


def kill_rank(cluster: NodeCluster, namespace: str, pod: str) -> None:
    """SIGKILL the training process of a pod, not its launcher, and return once it is gone."""
    uid = next(p["metadata"]["uid"] for p in cluster.list("pods", namespace) if p["metadata"]["name"] == pod)
    victims = [
        pid for pid in _processes_of(uid) if "train" in _arguments(pid) and "finetune_trainer" in _arguments(pid)
    ]
    if not victims:
        raise AssertionError(f"no training process in pod {pod}")
    os.kill(victims[-1], signal.SIGKILL)
    for _ in until(10, pause=0.1):
        if not Path(f"/proc/{victims[-1]}/cmdline").exists():
            return


def use_up_memory(cluster: NodeCluster, namespace: str, pod: str, limit: int) -> None:
    """Start processes in a pod's container that take `limit` bytes in all, each less than a rank, so that the kernel kills a rank first."""
    size = 128 * 2**20
    program = _HOG.format(processes=-(-limit // size), size=size)
    command = ["exec", pod, "--namespace", namespace, "--", "python", "-c", program]
    result = cluster.try_kubectl(*command)  # ends with the container
    if result.returncode == 0:
        raise TestbedError(f"pod {pod} has lived through {limit} bytes of others")


def _processes_of(pod_uid: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                groups = (entry / "cgroup").read_text()
            except OSError:  # ended meanwhile
                continue
            if pod_uid in groups or pod_uid.replace("-", "_") in groups:
                found.append(int(entry.name))
    return sorted(found)


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
