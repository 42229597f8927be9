"""What goes wrong in a real cluster, done on purpose: processes killed, pods evicted, nodes drained, memory used up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from testbed.node import NAME, NodeCluster
from testbed.processes import TestbedError, start_time, until

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


def rank_process(cluster: NodeCluster, namespace: str, pod: str) -> int:
    """The id, on this machine, of a pod's training process, of the last rank where it has several; its launcher and torchrun have others."""
    found = [pid for pid in _processes_of(_uid(cluster, namespace, pod)) if _words(pid)[:1] == ["train"]]
    if not found:
        raise TestbedError(f"no training process in pod {pod}")
    return max(found, key=lambda pid: (int(start_time(pid) or 0), pid))


def agent_process(cluster: NodeCluster, namespace: str, pod: str) -> int:
    """The id, on this machine, of the torchrun of a pod with several ranks."""
    found = [pid for pid in _processes_of(_uid(cluster, namespace, pod)) if _words(pid)[:1] == ["agent"]]
    if len(found) != 1:
        raise TestbedError(f"{len(found)} torchruns in pod {pod}")
    return found[0]


def kill(*processes: int) -> None:
    """SIGKILL them, and return once they are gone. With the first process of a container the kernel kills all others in it."""
    for process in processes:
        os.kill(process, signal.SIGKILL)
    for _ in until(10, pause=0.02):
        if all(start_time(process) is None for process in processes):
            return
    raise TestbedError(f"still there after 10 s: {processes}")


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


def _uid(cluster: NodeCluster, namespace: str, pod: str) -> str:
    return str(next(p["metadata"]["uid"] for p in cluster.list("pods", namespace) if p["metadata"]["name"] == pod))


def _words(pid: int) -> list[str]:
    """What follows `python -m finetune_trainer` on the command line of a process; nothing when it is another program."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
    return words[words.index("finetune_trainer") + 1 :] if "finetune_trainer" in words else []
