"""The operator as a process of this machine against a control plane: quick to start, to kill and to start again."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from testbed.control_plane import ControlPlane
from testbed.processes import free_port, until

CRD = Path(__file__).resolve().parents[3] / "crds" / "finetunejobs.yaml"
AUDIENCE = "finetune-operator.dev"


class OperatorProcess:
    """One replica; several of them on one control plane share its Lease."""

    def __init__(self, cluster: ControlPlane, name: str = "operator-0") -> None:
        self.cluster = cluster
        self.program = f"9-{name}"
        self.directory = cluster.directory / name
        self.health_port = free_port()
        self.progress_port = free_port()
        self._environment = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "OPERATOR_NAMESPACE": "default",
            "POD_NAME": name,
            "INSPECT_IMAGE": "example/inspect:1",
            "TRAINER_IMAGE": "example/trainer:1",
            "PROGRESS_URL": f"https://127.0.0.1:{self.progress_port}",
            "PROGRESS_PORT": str(self.progress_port),
            "PROGRESS_CA_FILE": str(cluster.pki / "ca.crt"),
            "TLS_DIRECTORY": str(self.directory),
            "HEALTH_PORT": str(self.health_port),
            "NO_PROXY": "*",
            # A killed leader's Lease runs out: shorter than usual, and long enough for a busy machine.
            "LEASE_DURATION_SECONDS": "9",
            "LEASE_RENEW_DEADLINE_SECONDS": "7",
            "LEASE_RETRY_SECONDS": "1",
        }

    def start(self) -> None:
        """Start, and return when it answers its probe."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # The API server's pair is signed for 127.0.0.1 by the authority that pods are given.
        for kind, name in (("crt", "tls.crt"), ("key", "tls.key")):
            (self.directory / name).write_bytes((self.cluster.pki / f"apiserver.{kind}").read_bytes())
        command = [sys.executable, "-m", "finetune_operator.controller"]
        self.cluster.processes.start(self.program, *command, environment=self._environment)
        self.cluster.processes.wait_until(
            self.program, "it is alive", lambda: self.get("/livez")[0] == 200, patience=120
        )

    def stop(self) -> None:
        """End it in order."""
        self.cluster.processes.stop(self.program)

    def kill(self) -> None:
        """End it as a crash would."""
        self.cluster.processes.kill(self.program)

    def get(self, path: str) -> tuple[int, str]:
        """What the plain port answers; status 0 when nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def post(self, path: str, body: dict[str, Any], token: str) -> tuple[int, str]:
        """What the progress server answers to a pod with that token."""
        context = ssl.create_default_context(cafile=str(self.cluster.pki / "ca.crt"))
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.progress_port}{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def log(self) -> str:
        """Everything it has logged."""
        return (self.cluster.processes.logs / f"{self.program}.log").read_text()


def install_crd(cluster: ControlPlane) -> None:
    """Apply the CRD and wait until it is served. (`kubectl wait` fails on a CRD that has no conditions yet.)"""

    def is_served(crd: dict[str, Any]) -> bool:
        conditions = crd.get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    cluster.kubectl("apply", "--server-side", "-f", str(CRD))
    cluster.wait_for("crd", f"{CRD.stem}.finetune-operator.dev", is_served, patience=120)


def pod_token(cluster: ControlPlane, pod: str, namespace: str = "default", audience: str = AUDIENCE) -> str:
    """A token as the kubelet projects it into that pod."""
    bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod]
    arguments = ["create", "token", "default", "--namespace", namespace, "--audience", audience]
    return cluster.kubectl(*arguments, *bound).strip()


def wait_for_pod(
    cluster: ControlPlane, selector: str, namespace: str = "default", patience: float = 120.0
) -> dict[str, Any]:
    """The first pod that the selector finds, as soon as it has a node."""
    for _ in until(patience, pause=0.1):
        for pod in cluster.list("pods", namespace, selector):
            if pod["spec"].get("nodeName"):
                return pod
    raise AssertionError(
        f"no scheduled pod for {selector}; there are:\n{cluster.kubectl('get', 'pods', '-n', namespace)}"
    )
