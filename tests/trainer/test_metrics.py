"""The trainer's metrics are what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.constants import METRICS_PREFIX
from finetune_operator.api.measures import MEASURES
from finetune_operator.api.time_spent import TRAINER_CAUSES
from finetune_trainer.attempt import Place
from finetune_trainer.measure import Memory, flops_per_token
from finetune_trainer.metrics import BADPUT, COUNTERS, EVALUATION_MEASURE, GAUGES, MEASURE, RankMetrics
from finetune_trainer.objectives import recipe_of
from finetune_trainer.rank_files import RunDirectory
from finetune_trainer.telemetry import StepRecord, Telemetry, Trained
from finetune_trainer.testing import tiny_plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def documented() -> set[str]:
    section = DOCUMENT.read_text().partition("## Trainer")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(finetune_[a-z_]+)` \|", section, re.MULTILINE))


def test_every_metric_is_documented_and_nothing_else() -> None:
    names = {METRICS_PREFIX + metric.name for metric in (*GAUGES, MEASURE, EVALUATION_MEASURE)}
    names |= {f"{METRICS_PREFIX}{metric.name}_total" for metric in (*COUNTERS, BADPUT)}

    assert documented() == names


def test_every_measure_is_documented_with_the_objectives_that_have_it() -> None:
    section = DOCUMENT.read_text().partition("### Measures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([a-z, -]+) \| (.+) \|$", section, re.MULTILINE)
    objectives = {
        name: {
            objective
            for objective in Objective
            if name in {*recipe_of(objective).measures.values(), *recipe_of(objective).held_out.values()}
        }
        for name in MEASURES
    }

    assert {name: meaning for name, _, meaning in rows} == dict(MEASURES)
    assert {name: set(said.split(", ")) for name, said, _ in rows} == objectives


def test_a_scrape_has_the_labels_of_job_attempt_and_rank(make_attempt: Any) -> None:
    metrics = RankMetrics(make_attempt(tiny_plan(), attempt=3), rank=1)
    metrics.set("loss", 1.25)
    metrics.measure("token_accuracy", 0.5)
    metrics.set_memory(Memory(1, 2, 3))
    metrics.badput("load", 2.0)

    scrape = generate_latest(metrics.registry).decode()

    assert 'finetune_loss{attempt="3",job="tiny",namespace="default",rank="1"} 1.25' in scrape
    assert (
        'finetune_badput_seconds_total{attempt="3",cause="load",job="tiny",namespace="default",rank="1"} 2.0' in scrape
    )
    assert (
        'finetune_measure{attempt="3",job="tiny",measure="token_accuracy",namespace="default",rank="1"} 0.5' in scrape
    )
    assert all(f'cause="{cause}"' in scrape for cause in TRAINER_CAUSES)
    assert metrics.value("memory_peak_bytes") == 3


def test_the_utilization_is_a_share_of_the_planned_gpu(make_attempt: Any, tmp_path: Path) -> None:
    shape = {"total_parameters": 10**9, "trainable_parameters": 10**9, "processes": 2}

    def utilization(**changes: Any) -> float | None:
        attempt = make_attempt(tiny_plan().model_copy(update={**shape, **changes}))
        telemetry = Telemetry(attempt, Place(1, 2, 1, 2), RunDirectory(tmp_path), started=0.0)
        telemetry.on_step(
            StepRecord(1, 1.0, 1e-4, None, tokens=1000, seconds=1.0, data_wait_seconds=0.0), Memory(1, 1, 1)
        )
        return telemetry.metrics.value("model_flops_utilization")

    assert utilization(gpu_tflops=10.0) == pytest.approx(6e9 * 1000 / (10e12 * 2))
    assert not utilization(gpu_tflops=None)


def test_full_training_costs_six_operations_per_parameter_and_token() -> None:
    assert flops_per_token(7, 7) == 42
    assert flops_per_token(100, 0) == 400


def test_the_reported_speed_is_all_tokens_over_all_time_and_unknown_before_a_step() -> None:
    short, long = (StepRecord(1, 1.0, 1e-4, None, tokens, seconds, 0.0) for tokens, seconds in ((100, 1.0), (600, 2.0)))
    assert Trained().tokens_per_second is None
    assert Trained().after(short).tokens_per_second == 100.0
    assert Trained().after(short).after(long).tokens_per_second == pytest.approx(700 / 3)


def test_steps_that_were_made_before_are_replayed_and_told_with_the_rest(make_attempt: Any, tmp_path: Path) -> None:
    attempt = make_attempt(tiny_plan(), attempt=2).model_copy(update={"reached_step": 2})
    run = RunDirectory(tmp_path)
    telemetry = Telemetry(attempt, Place(1, 2, 1, 2), run, started=0.0)
    telemetry.metrics.badput("load", 3.0)
    for step in (1, 2, 3):
        telemetry.on_step(
            StepRecord(step, 1.0, 1e-4, None, tokens=1, seconds=4.0, data_wait_seconds=0.5), Memory(1, 1, 1)
        )
    telemetry.close()
    (state,) = run.states()
    assert state.time is not None
    assert state.time.lost == {"load": 3.0, "replay": 8.0, "data": 0.5}
    assert state.time.productive == 3.5
    assert state.time.first_step_time is not None
