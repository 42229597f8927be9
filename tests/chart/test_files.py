"""The chart's files that need no Helm to be checked: the CRD's copy, alerts, dashboards, metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

from finetune_operator import __version__
from finetune_operator.api.constants import API_VERSION, METRICS_PREFIX
from finetune_operator.controller.metrics import FinishedJob, OperatorMetrics
from finetune_operator.testing import finetune_job
from finetune_trainer.metrics import BADPUT, COUNTERS, GAUGES

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "finetune-operator"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]


def operator_metrics() -> dict[str, set[str]]:
    """Return every metric of the operator, as Prometheus knows it, with its labels."""
    found = final_values()
    for metric in vars(OperatorMetrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = set(metric._labelnames)
    return found


def final_values() -> dict[str, set[str]]:
    metrics = OperatorMetrics()
    metrics.job_finished(FinishedJob("team", "tune", True, 1, 1.0, 1, 1.0, 1, 1))
    families = [each for each in metrics.registry.collect() if isinstance(each, GaugeMetricFamily)]
    return {each.name: set(each._labelnames) for each in families if each.name.startswith("finetune_operator_job_")}


def used_metrics(expression: str) -> set[str]:
    return {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bfinetune_[a-z_]+", expression)}


def known_metrics() -> set[str]:
    """Return the names of all metrics of operator and trainer."""
    trainer = {metric.name for metric in GAUGES} | {f"{metric.name}_total" for metric in (*COUNTERS, BADPUT)}
    return set(operator_metrics()) | {METRICS_PREFIX + name for name in trainer}


def test_the_chart_carries_the_generated_crd() -> None:
    generated = (ROOT / "crds" / "finetunejobs.yaml").read_text()
    assert (CHART / "files" / "crds" / "finetunejobs.yaml").read_text() == generated, "run make crds"


def test_the_crd_has_the_one_place_where_the_template_puts_its_annotations() -> None:
    assert (CHART / "files" / "crds" / "finetunejobs.yaml").read_text().count("\nmetadata:\n") == 1


def test_chart_and_operator_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert chart["version"] == __version__


def test_the_example_on_artifact_hub_is_a_job() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    assert example["apiVersion"] == API_VERSION
    assert set(finetune_job()["spec"]) <= set(example["spec"])


def test_the_reference_describes_every_metric_of_the_operator_with_its_labels() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(finetune_operator_[a-z_]+)(?:\{([a-z,]+)\})?` \|", page, flags=re.MULTILINE)
    assert {name: set(filter(None, labels.split(","))) for name, labels in rows} == operator_metrics()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_to_do_and_reads_metrics_that_exist(alert: dict[str, Any]) -> None:
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    used = used_metrics(alert["expr"])
    assert used
    assert used <= known_metrics()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.name))
def test_a_dashboard_reads_metrics_that_exist(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    used = set().union(*map(used_metrics, expressions))
    assert used
    assert used <= known_metrics()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.name))
def test_a_dashboard_s_panels_are_told_apart_and_described(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")
