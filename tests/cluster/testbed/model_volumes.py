"""Places where jobs keep models, as an administrator makes them: a claim in a namespace, and a folder of the node."""

from __future__ import annotations

import json
import os
from pathlib import Path

from testbed.control_plane import ControlPlane

GROUP = 65532
"""The group that every pod of the operator's runs with."""


def shared_folder(path: Path) -> Path:
    """Make a folder that the jobs' group may write to."""
    path.mkdir(parents=True)
    os.chown(path, 0, GROUP)
    path.chmod(0o2770)
    return path


def claim(cluster: ControlPlane, name: str, namespace: str, folder: Path) -> None:
    """Make a PersistentVolumeClaim whose volume is that folder of the node."""
    size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
    volume = {
        "capacity": size,
        "accessModes": modes,
        "storageClassName": "",
        "claimRef": {"name": name, "namespace": namespace},
        "hostPath": {"path": str(folder), "type": "Directory"},
    }
    wish = {
        "accessModes": modes,
        "storageClassName": "",
        "resources": {"requests": size},
        "volumeName": f"{namespace}-{name}",
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{name}"}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": wish,
        },
    )


def downloads(folder: Path) -> list[str]:
    """The download of each model that is kept there: another one as soon as a model was fetched anew."""
    return [json.loads(path.read_text())["download"] for path in sorted(folder.glob("*/.finetune-model.json"))]
