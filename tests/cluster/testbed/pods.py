"""Pods as the operator makes them: non-root, read-only root, no capabilities; for tests of the ground they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def restricted_pod(
    name: str,
    image: str,
    program: str,
    *,
    namespace: str,
    secret: str = "",
    metrics_ports: Sequence[int] = (),
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A pod that runs a Python program once, allowed by the restricted pod security standard."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", program],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        "ports": [{"name": f"metrics-{index}", "containerPort": port} for index, port in enumerate(metrics_ports)],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": dict(annotations or {})},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def ended(pod: Mapping[str, Any]) -> bool:
    """Whether every container of a pod has ended."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def outcome(pod: Mapping[str, Any]) -> tuple[int, str]:
    """The exit code of a pod's container and its last words."""
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return int(state["exitCode"]), str(state.get("message", ""))
