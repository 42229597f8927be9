"""Helm 4 against one cluster, with a home of its own."""

from __future__ import annotations

from pathlib import Path

from testbed import tools
from testbed.processes import output


class Helm:
    """`helm("install", "name", "charts/…", "--wait")` returns what Helm printed; a failure raises with its error text."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        homes = {"CACHE": "cache", "CONFIG": "config", "DATA": "data"}
        self._environment = {f"HELM_{name}_HOME": str(directory / "helm" / folder) for name, folder in homes.items()}
        self._kubeconfig = kubeconfig

    def __call__(self, *arguments: object, stdin: str | None = None) -> str:
        """Run one Helm command."""
        command = [tools.path("helm"), "--kubeconfig", self._kubeconfig, *arguments]
        return output(*command, stdin=stdin, environment=self._environment)
