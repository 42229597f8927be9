"""A real Prometheus reads the alerts and every query of the dashboards, and those about the operator find something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import start_http_server
from testbed import tools
from testbed.processes import free_port, until
from testbed.prometheus import PROGRAM, Prometheus

from finetune_operator.api.reasons import JobState, Reason
from finetune_operator.api.time_spent import TimeAccount
from finetune_operator.controller.metrics import FinishedJob, OperatorMetrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # Prometheus may have to be compiled first

CHART = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
QUERIES = [
    (f"{path.stem}: {panel['title']}", target["expr"].replace("$namespace", ".*").replace("$job", ".*"))
    for path in sorted((CHART / "dashboards").glob("*.json"))
    for panel in json.loads(path.read_text())["panels"]
    for target in panel.get("targets", ())
]


def working_operator() -> OperatorMetrics:
    """Return the metrics of an operator that has seen a bit of everything."""
    metrics = OperatorMetrics()
    metrics.leader.set(1)
    metrics.workqueue_depth.set(0)
    metrics.workqueue_wait_seconds.observe(0.1)
    metrics.observe_reconcile("done", 0.1)
    metrics.observe_request("apply", 200)
    metrics.set_jobs({JobState.RUNNING: 1})
    metrics.attempt_ended(Reason.RANK_KILLED)
    account = TimeAccount(productive_gpu_seconds=90, lost_gpu_seconds={"load": 10}, waiting_seconds={"queue": 5})
    metrics.attempt_accounted(account, "gpu")
    metrics.recovery_seconds.observe(40)
    metrics.events_total.labels("Training").inc()
    metrics.progress_reports_total.labels("progress", "written").inc()
    metrics.track_watch("Job", lambda: 1.0)
    metrics.job_finished(FinishedJob("team", "tune", True, 1, 60.0, 10, 0.5, 12, 10))
    return metrics


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    operator, thread = start_http_server(0, addr="127.0.0.1", registry=working_operator().registry)
    target = f"127.0.0.1:{operator.server_port}"
    scrape = {"job_name": "operator", "honor_labels": True, "static_configs": [{"targets": [target]}]}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "rule_files": [str(CHART / "files" / "alerts.yaml")],
        "scrape_configs": [scrape],
    }
    (directory / "config.json").write_text(json.dumps(config))
    server = Prometheus(directory, Path())
    port = free_port()
    server.url = f"http://127.0.0.1:{port}"
    program = tools.path("prometheus")
    server.processes.start(
        PROGRAM,
        program,
        f"--config.file={directory / 'config.json'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    try:
        server.processes.wait_until(PROGRAM, "it answers", server._ready, patience=120)
        yield server
    finally:
        server.stop()
        operator.shutdown()
        operator.server_close()
        thread.join()


def test_prometheus_loads_every_alert(prometheus: Prometheus) -> None:
    groups: list[dict[str, Any]] = prometheus._get("rules")["groups"]
    assert len([rule for group in groups for rule in group["rules"]]) >= 7


@pytest.mark.parametrize(("panel", "expression"), QUERIES, ids=[panel for panel, _ in QUERIES])
def test_prometheus_understands_the_query_and_finds_the_operators_series(
    prometheus: Prometheus, panel: str, expression: str
) -> None:
    found = prometheus.query(expression)
    if "finetune_operator_" in expression:
        for _ in until(20, pause=0.3):
            if found := prometheus.query(expression):
                break
        assert found, f"{panel}: {expression} finds nothing"
