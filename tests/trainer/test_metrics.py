"""The trainer's metrics are what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from finetune_operator.api.constants import METRICS_PREFIX
from finetune_trainer.measure import Memory, flops_per_token, peak_flops
from finetune_trainer.metrics import BADPUT, BADPUT_CAUSES, COUNTERS, GAUGES, RankMetrics
from finetune_trainer.testing import tiny_plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def documented() -> set[str]:
    section = DOCUMENT.read_text().partition("## Trainer")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(finetune_[a-z_]+)` \|", section, re.MULTILINE))


def test_every_metric_is_documented_and_nothing_else() -> None:
    names = {METRICS_PREFIX + metric.name for metric in GAUGES}
    names |= {f"{METRICS_PREFIX}{metric.name}_total" for metric in (*COUNTERS, BADPUT)}

    assert documented() == names


def test_a_scrape_has_the_labels_of_job_attempt_and_rank(make_attempt: Any) -> None:
    metrics = RankMetrics(make_attempt(tiny_plan(), attempt=3), rank=1)
    metrics.set("loss", 1.25)
    metrics.set_memory(Memory(1, 2, 3))
    metrics.badput("load", 2.0)

    scrape = generate_latest(metrics.registry).decode()

    assert 'finetune_loss{attempt="3",job="tiny",namespace="default",rank="1"} 1.25' in scrape
    assert (
        'finetune_badput_seconds_total{attempt="3",cause="load",job="tiny",namespace="default",rank="1"} 2.0' in scrape
    )
    assert all(f'cause="{cause}"' in scrape for cause in BADPUT_CAUSES)
    assert metrics.value("memory_peak_bytes") == 3


def test_full_training_costs_six_operations_per_parameter_and_token() -> None:
    assert flops_per_token(7, 7) == 42
    assert flops_per_token(100, 0) == 400


def test_a_gpu_is_known_by_its_name() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("Some CPU") is None
