"""A Prometheus that finds the pods of a cluster by itself, as one installed in it would.

A pod is sampled when it is annotated `prometheus.io/scrape: "true"`; every container port whose name starts with `metrics` is a target.
New targets take about 5 s whatever the interval, so a pod that lives less may never be sampled: `wait_for` allows for it.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import tools
from testbed.processes import Processes, TestbedError, free_port, until

PROGRAM = "9-prometheus"
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Sample:
    """One series of an answer: its labels and its value (the last one, for a range)."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """The server, and questions to its HTTP API."""

    def __init__(self, directory: Path, kubeconfig: Path) -> None:
        self.directory = directory
        self.processes = Processes(directory)
        self._kubeconfig = kubeconfig
        self._port_file = directory / "prometheus-port"
        self.url = ""

    def start(self) -> None:
        """Start, and return when it answers."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps(configuration(self._kubeconfig), indent=1))
        self.processes.start(
            PROGRAM,
            tools.path("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        self.processes.wait_until(PROGRAM, "it answers", self._ready, patience=120)

    def stop(self) -> None:
        """End the server."""
        self.processes.stop(PROGRAM)

    def query(self, expression: str) -> list[Sample]:
        """The answer to a PromQL expression now."""
        answer = self._get("query", query=expression)
        return [Sample(series["metric"], float(series["value"][1])) for series in answer["result"]]

    def history(self, expression: str, seconds: float) -> dict[str, list[float]]:
        """All raw values of the last seconds, by series: what `expression[120s]` answers."""
        answer = self._get("query", query=f"{expression}[{seconds:.0f}s]")
        return {json.dumps(s["metric"], sort_keys=True): [float(v) for _, v in s["values"]] for s in answer["result"]}

    def targets(self) -> list[dict[str, Any]]:
        """The targets that are sampled now, with their health and last error."""
        return list(self._get("targets", state="active")["activeTargets"])

    def wait_for(self, expression: str, patience: float = 60.0) -> list[Sample]:
        """Wait until an expression has an answer; when patience ends, show the targets and their errors."""
        for _ in until(patience, pause=0.3):
            if samples := self.query(expression):
                return samples
        targets = "\n".join(f"{t['scrapeUrl']} {t['health']} {t['lastError']}" for t in self.targets())
        raise TestbedError(
            f"Prometheus has no sample of {expression} after {patience:.0f} s. Targets:\n{targets or 'none'}"
        )

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with NO_PROXY.open(address, timeout=10) as response:
            answer = json.load(response)
        data: dict[str, Any] = answer["data"]
        return data

    def _ready(self) -> bool:
        try:
            with NO_PROXY.open(f"{self.url}/-/ready", timeout=1) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def configuration(kubeconfig: Path) -> dict[str, Any]:
    """Sample every second the pods that ask for it, under the labels namespace, pod, container and port."""

    def relabel(source: str, **action: str) -> dict[str, Any]:
        return {"source_labels": [f"__meta_kubernetes_{source}"], **action}

    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "honor_labels": True,  # as the chart's monitors do: a series about a job carries the job's name
                "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
                "relabel_configs": [
                    relabel("pod_annotation_prometheus_io_scrape", regex="true", action="keep"),
                    relabel("pod_container_port_name", regex="metrics.*", action="keep"),
                    relabel("pod_phase", regex="Pending|Succeeded|Failed", action="drop"),
                    relabel("namespace", target_label="namespace"),
                    relabel("pod_name", target_label="pod"),
                    relabel("pod_container_name", target_label="container"),
                    relabel("pod_container_port_name", target_label="port"),
                ],
            }
        ],
    }
