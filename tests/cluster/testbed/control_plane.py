"""etcd, API server, controller manager and scheduler: all of Kubernetes but a machine to run pods on.

Ports are free ones, so several control planes run side by side; no root is needed. Ready after 5 s on 2 cores.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from testbed import packages, tools
from testbed.certificates import write_certificates
from testbed.objects import Objects
from testbed.processes import Processes, TestbedError, free_port, succeeds, until

NODE_ADDRESS = "10.244.0.1"
SERVICE_SUBNET = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
DNS_DOMAIN = "cluster.local"


class ControlPlane:
    """One cluster whose state, logs and process ids live in `directory`."""

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        self.directory = directory.resolve()
        self.address = address
        self.processes = Processes(self.directory)
        self.kubeconfig = self.directory / "kubeconfig"
        self.pki = self.directory / "pki"
        self._binary = tools.TOOLS["kubernetes"].path

    def start(self) -> None:
        """Start, and return when the API server and the controllers work."""
        self.require_stopped()
        packages.require(*packages.CONTROL_PLANE)
        tools.ensure(*tools.CONTROL_PLANE)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_certificates(self.pki, ("127.0.0.1", NODE_ADDRESS, KUBERNETES_SERVICE))
        port = free_port(self.address)
        self._write_kubeconfig(port)
        etcd = self._start_etcd()
        self._start_api_server(etcd, port)
        self._start_controllers()

    def require_stopped(self) -> None:
        """Refuse a second start: it would lose the ids of the first one's programs."""
        if self.processes.names():
            raise TestbedError(f"{self.directory} has a cluster already. Stop it: cluster.py down {self.directory}")

    def stop(self) -> None:
        """End every program; the folder keeps logs and state."""
        if "_objects" in self.__dict__:
            self.__dict__.pop("_objects").close()
        self.processes.stop_all()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl printed; its error text becomes the error."""
        result = self.try_kubectl(*arguments, stdin=stdin)
        if result.returncode:
            raise TestbedError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl where a failure is an answer too."""
        command = [str(self._binary), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    def start_kubectl(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a kubectl that goes on until it is terminated, such as a watch, and whose lines can be read."""
        command = [str(self._binary), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply manifests as kubectl does, on the server."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """One object, or None when there is none."""
        return self._objects.get(kind, name, namespace)

    def list(self, kind: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Every object of a kind in one namespace, or in all."""
        return self._objects.list(kind, namespace, selector)

    def refusal(self, manifest: dict[str, Any], namespace: str = "default") -> str:
        """Why the server would not create an object, in its words; an empty text where it would."""
        return self._objects.refusal(manifest, namespace)

    @cached_property
    def _objects(self) -> Objects:
        return Objects(self.kubeconfig)

    def wait_for(
        self,
        kind: str,
        name: str,
        reached: Callable[[dict[str, Any]], object],
        *,
        namespace: str = "default",
        patience: float = 120.0,
    ) -> dict[str, Any]:
        """Wait until an object is as `reached` wants it; when patience ends, show the object and its Events."""
        found: dict[str, Any] | None = None
        for _ in until(patience, pause=0.2):
            found = self.get(kind, name, namespace)
            if found is not None and reached(found):
                return found
        events = self.try_kubectl("get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp").stdout
        state = json.dumps((found or {}).get("status"), indent=1)
        raise TestbedError(
            f"{kind}/{name} in {namespace} did not get there within {patience:.0f} s; its status:\n{state}\n"
            f"Events:\n{events}\nLogs of the components: {self.processes.logs}"
        )

    def wait_until_gone(self, selector: str, namespace: str, *kinds: str, patience: float = 120.0) -> None:
        """Wait until the garbage collector has followed the owners: children do not hold up the deletion of what owns them."""
        left: dict[str, list[dict[str, Any]]] = {}
        for _ in until(patience, pause=0.5):
            left = {kind: found for kind in kinds if (found := self.list(kind, namespace, selector))}
            if not left:
                return
        names = {kind: [body["metadata"]["name"] for body in found] for kind, found in left.items()}
        raise TestbedError(f"still there after {patience:.0f} s in {namespace}: {names}")

    def write_command(self, name: str, program: Path, *arguments: str) -> Path:
        """Write DIRECTORY/bin/NAME for people; a link does not do, the programs look at the name they are called by."""
        command = self.directory / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec {" ".join([str(program), *arguments])} "$@"\n')
        command.chmod(0o755)
        return command

    def _start_etcd(self) -> str:
        url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.processes.start(
            "1-etcd",
            self._binary,
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            "--unsafe-no-fsync",  # a test cluster need not survive a power cut, and starts 2 s sooner
        )
        return url

    def _start_api_server(self, etcd: str, port: int) -> None:
        reachable = self.address != "127.0.0.1"
        self.processes.start(
            "2-kube-apiserver",
            self._binary,
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--secure-port={port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--endpoint-reconciler-type={'lease' if reachable else 'none'}",
            f"--tls-cert-file={self.pki}/apiserver.crt",
            f"--tls-private-key-file={self.pki}/apiserver.key",
            f"--client-ca-file={self.pki}/ca.crt",
            f"--service-account-key-file={self.pki}/sa.pub",
            f"--service-account-signing-key-file={self.pki}/sa.key",
            f"--service-account-issuer=https://kubernetes.default.svc.{DNS_DOMAIN}",
            f"--service-cluster-ip-range={SERVICE_SUBNET}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={self.pki}/admin.crt",
            f"--kubelet-client-key={self.pki}/admin.key",
        )
        ready = [self._binary, "kubectl", "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"]
        self.processes.wait_until("2-kube-apiserver", "/readyz", lambda: succeeds(*ready))

    def _start_controllers(self) -> None:
        shared = [
            f"--kubeconfig={self.kubeconfig}",
            f"--authentication-kubeconfig={self.kubeconfig}",
            f"--authorization-kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        self.processes.start(
            "3-kube-controller-manager",
            self._binary,
            "kube-controller-manager",
            *shared,
            f"--secure-port={free_port()}",
            "--use-service-account-credentials=true",
            f"--root-ca-file={self.pki}/ca.crt",
            f"--service-account-private-key-file={self.pki}/sa.key",
            f"--cluster-signing-cert-file={self.pki}/ca.crt",
            f"--cluster-signing-key-file={self.pki}/ca.key",
        )
        self.processes.start(
            "3-kube-scheduler", self._binary, "kube-scheduler", *shared, f"--secure-port={free_port()}"
        )
        self.processes.wait_until(
            "3-kube-controller-manager",
            "it makes the default service account, without which no pod can be created",
            lambda: self.try_kubectl("get", "serviceaccount", "default").returncode == 0,
        )

    def _write_kubeconfig(self, port: int) -> None:
        cluster = {"server": f"https://{self.address}:{port}", "certificate-authority": str(self.pki / "ca.crt")}
        user = {"client-certificate": str(self.pki / "admin.crt"), "client-key": str(self.pki / "admin.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "admin"}}],
        }
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(json.dumps(config))
