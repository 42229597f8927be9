"""One real node: containerd, kubelet, kube-proxy, CoreDNS and a bridge network, with 8 advertised GPUs that no device is behind.

One per machine: the bridge, the containerd socket and the kubelet's port are fixed. Needs root. Ready 12 s after `start` on 2 cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

from testbed import packages, tools
from testbed.control_plane import DNS_DOMAIN, NODE_ADDRESS, ControlPlane
from testbed.pause import REFERENCE as PAUSE
from testbed.pause import write_pause_archive
from testbed.processes import TestbedError, output, run, succeeds, until

NAME = "node-0"
BRIDGE = "cluster0"
POD_SUBNET = "10.244.0.0/24"
RUNTIME_STATE = Path("/run/kubernetes-cluster")
SOCKET = RUNTIME_STATE / "containerd.sock"
# Not in the cluster's folder: sockets lie in it, whose paths may have 107 characters, and a checkout may lie deep.
KUBELET_STATE = Path("/var/lib/kubernetes-cluster")
IMAGES = tools.CACHE / "containerd"
GPU_LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.family": "hopper",
    "nvidia.com/gpu.compute.major": "9",
    "nvidia.com/gpu.compute.minor": "0",
}


def ctr(*arguments: str, stdin: str | None = None) -> str:
    """What containerd's client printed."""
    return output("ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments, stdin=stdin)


def node_is_running() -> bool:
    """Whether a node's containerd answers on this machine."""
    return SOCKET.exists() and succeeds("ctr", "--address", SOCKET, "version")


def create_bridge() -> None:
    """Make the pods' network; its address is the host's, where pods reach the API server, DNS and the S3 server."""
    if not succeeds("ip", "link", "show", BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NODE_ADDRESS}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")


class NodeCluster(ControlPlane):
    """A control plane that pods can reach, and a node that runs them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, address=NODE_ADDRESS)

    def start(self) -> None:
        """Start, and return when the node is ready."""
        packages.require_root("A real node")
        packages.require(*packages.NODE)
        tools.ensure(*tools.NODE)
        if node_is_running():
            raise TestbedError(
                "A node runs on this machine already, and one is all it can have: another test run, which ends by itself, "
                "or one for hand use, which `make cluster-down` stops."
            )
        create_bridge()
        super().start()
        self._start_containerd()
        self._start_dns()
        self._start_kubelet()
        self._start_proxy()
        self._advertise_gpus()

    def stop(self) -> None:
        """End the containers, then every program; images stay in the cache, logs in the folder."""
        had_node = "4-containerd" in self.processes.names()
        if had_node:
            self.processes.stop("6-kubelet")  # first, so that it starts nothing anew
            self._end_containers()
        super().stop()
        if had_node:  # otherwise they may belong to a node that runs now
            end_orphans()
            unmount_below(KUBELET_STATE)
            unmount_below(RUNTIME_STATE)
            shutil.rmtree(KUBELET_STATE, ignore_errors=True)

    def container_pid(self, pod: str, namespace: str = "default", container: int = 0) -> int:
        """The id, on this machine, of the first process of a pod's container: what `kill -9` in a test needs."""
        found = self.get("pod", pod, namespace) or {}
        identity = found["status"]["containerStatuses"][container]["containerID"].removeprefix("containerd://")
        for line in ctr("tasks", "ls").splitlines():
            if line.startswith(identity):
                return int(line.split()[1])
        raise TestbedError(f"pod {namespace}/{pod} has no running container {identity}")

    def _start_containerd(self) -> None:
        cni = self.directory / "cni"
        cni.mkdir(exist_ok=True)
        plugin = {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_SUBNET}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.directory / "ipam"),
            },
        }
        network = {"cniVersion": "0.4.0", "name": "cluster", "plugins": [plugin]}
        (cni / "10-cluster.conflist").write_text(json.dumps(network))
        # restrict_oom_score_adj: a sandboxed root without CAP_SYS_RESOURCE may not lower oom_score_adj.
        (self.directory / "containerd.toml").write_text(f"""version = 2
root = "{IMAGES}"
state = "{RUNTIME_STATE}"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
""")
        self.processes.start("4-containerd", "containerd", "-c", self.directory / "containerd.toml")
        self.processes.wait_until("4-containerd", "it answers", node_is_running)
        if PAUSE not in ctr("images", "ls", "--quiet").split():
            ctr("images", "import", str(write_pause_archive(self.directory / "pause")))

    def _start_dns(self) -> None:
        (self.directory / "Corefile").write_text(f"""{DNS_DOMAIN} in-addr.arpa {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {DNS_DOMAIN} in-addr.arpa {{
        kubeconfig {self.kubeconfig} cluster
        ttl 1
    }}
}}
""")
        self.processes.start("5-coredns", tools.path("coredns"), "-conf", self.directory / "Corefile")

    def _start_kubelet(self) -> None:
        (self.directory / "resolv.conf").write_text("")
        self.kubectl("delete", "node", NAME, "--ignore-not-found")  # an earlier start's node would look ready
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "port": 10250,
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(self.pki / "ca.crt")}},
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": DNS_DOMAIN,
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,  # there is no registry to pull an image from again
            "podLogsDir": str(self.directory / "pod-logs"),
            "resolvConf": str(self.directory / "resolv.conf"),
            "syncFrequency": "5s",
        }
        (self.directory / "kubelet.json").write_text(json.dumps(config))
        ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"

        def is_ready() -> bool:
            return self.try_kubectl("get", "node", NAME, "--output", ready).stdout == "True"

        self._run_kubelet()
        # containerd answers before the half of it that the kubelet needs (2 s, with 14 GiB of images), and without it a kubelet ends at once:
        # a service manager would start it again.
        self.processes.wait_until("6-kubelet", "the node is ready", is_ready, restart=self._run_kubelet)

    def _run_kubelet(self) -> None:
        self.processes.start(
            "6-kubelet",
            self._binary,
            "kubelet",
            f"--config={self.directory / 'kubelet.json'}",
            f"--kubeconfig={self.kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={KUBELET_STATE}",
            f"--cert-dir={self.pki}",
        )

    def _start_proxy(self) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self.kubeconfig)},
            "clusterCIDR": POD_SUBNET,
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "hostnameOverride": NAME,
        }
        (self.directory / "kube-proxy.json").write_text(json.dumps(config))
        self.processes.start(
            "7-kube-proxy", self._binary, "kube-proxy", f"--config={self.directory / 'kube-proxy.json'}"
        )

    def _advertise_gpus(self) -> None:
        """Advertise GPUs the way the NVIDIA device plugin and GPU feature discovery do."""
        patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": GPU_LABELS["nvidia.com/gpu.count"]}]
        self.kubectl("patch", "node", NAME, "--subresource=status", "--type=json", "--patch", json.dumps(patch))
        self.kubectl("label", "node", NAME, "--overwrite", *(f"{key}={value}" for key, value in GPU_LABELS.items()))

    def _end_containers(self) -> None:
        if self.processes.pid("4-containerd") is None:
            return
        for task in ctr("tasks", "ls", "--quiet").split():
            succeeds("ctr", "--address", SOCKET, "--namespace", "k8s.io", "tasks", "rm", "--force", task)


def end_orphans() -> None:
    """End the containers of a containerd that was killed: their shims outlive it, and would hold mounts and memory."""
    shims = [pid for pid, words in processes_of_this_machine() if "containerd-shim" in words and str(SOCKET) in words]
    for shim in shims:
        for pid in [*children_of(shim), shim]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def processes_of_this_machine() -> list[tuple[int, str]]:
    """Every process id with its command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def unmount_below(folder: Path) -> None:
    """Unmount what pods left: volumes in memory outlive the kubelet."""
    for _ in until(5):
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        ours = sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), key=len, reverse=True)
        if not ours:
            return
        for mount in ours:
            succeeds("umount", mount)
    raise TestbedError(f"These stay mounted below {folder}, somebody uses them: {' '.join(ours)}")
