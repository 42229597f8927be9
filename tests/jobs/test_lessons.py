"""What a finished job may teach the history of runs, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import GIB
from finetune_operator.api.progress import METRIC_TOKENS_PER_SECOND, Metric
from finetune_operator.api.status import ProgressStatus
from finetune_operator.jobs.lessons import finished_run
from finetune_operator.jobs.testing import FixedPlanner, World, ended_pod, make_plan, make_prediction
from finetune_operator.planner.history import FinishedRun

PREDICTION = make_prediction(expected_bytes=2 * GIB, tokens_per_second=500.0)


def told(world: World) -> FinishedRun | None:
    return finished_run(world.job, world.status, world.observe())


def complete(*, speed: str | None = "450.0", reported_by: int = 1, peak: int | None = 3 * GIB, **plan: Any) -> World:
    """Return a world in which the job is Complete, with what its trainer has measured."""
    world = World(planner=FixedPlanner(make_plan(**{"prediction": PREDICTION, **plan})))
    world.settle()
    world.inspect()
    world.settle()
    world.train_to(21)
    metrics = [] if speed is None else [Metric(name=METRIC_TOKENS_PER_SECOND, value=speed)]
    progress = ProgressStatus(attempt=reported_by, step=21, metrics=metrics)
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"progress": progress})})
    world.finish("tune-1", ended_pod(0, peak=peak))
    world.settle()
    world.finish("tune-publish", ended_pod(0, component="publish", result_uri="s3://models/tune"))
    world.settle()
    assert world.status.state == "Complete"
    return world


def test_a_complete_job_tells_its_peak_and_speed_beside_what_the_formulas_said() -> None:
    run = told(complete())
    assert run is not None
    assert (run.prediction, run.peak_bytes, run.tokens_per_second) == (PREDICTION, 3 * GIB, 450.0)


def test_it_tells_the_same_every_time_and_no_name() -> None:
    world = complete()
    first = told(world)
    world.advance(7200)
    world.settle()
    assert told(world) == first
    assert first is not None
    assert world.job.metadata.uid not in first.id
    assert len(first.id) == 16


def test_a_job_that_has_not_ended_or_has_failed_tells_nothing() -> None:
    world = World(planner=FixedPlanner(make_plan(prediction=PREDICTION)))
    world.settle()
    assert told(world) is None
    world.inspect(rows=0, dropped=100)
    world.settle()
    assert world.status.state == "Failed"
    assert told(world) is None


def test_a_plan_of_an_older_operator_has_no_prediction_to_compare_with() -> None:
    assert told(complete(prediction=None)) is None


def test_without_any_measurement_there_is_nothing_to_tell() -> None:
    assert told(complete(speed=None, peak=None)) is None


@pytest.mark.parametrize(("speed", "reported_by"), [("fast", 1), (None, 1), ("450.0", 2)])
def test_a_speed_that_is_no_number_or_another_attempt_s_is_not_told(speed: str | None, reported_by: int) -> None:
    run = told(complete(speed=speed, reported_by=reported_by))
    assert run is not None
    assert (run.peak_bytes, run.tokens_per_second) == (3 * GIB, None)


@pytest.mark.parametrize(
    ("product", "resource", "is_told"),
    [
        ("NVIDIA-L4-SHARED", "nvidia.com/gpu", False),
        ("NVIDIA-L4", "nvidia.com/gpu.shared", False),
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "nvidia.com/mig-3g.40gb", True),
    ],
)
def test_the_peak_of_a_gpu_that_others_use_too_is_not_told(product: str, resource: str, is_told: bool) -> None:
    run = told(complete(accelerator="gpu", gpu_product=product, gpu_resource=resource))
    assert run is not None
    assert (run.peak_bytes is not None) is is_told


def test_a_peak_of_an_earlier_plan_is_neither_shown_nor_told() -> None:
    world = World(planner=FixedPlanner(make_plan(prediction=PREDICTION)))
    world.settle()
    world.inspect()
    world.settle()
    world.train_to(3)
    world.fail("tune-1", ended_pod(ExitCode.INPUTS_CHANGED, peak=60 * GIB))
    world.reconcile()
    assert world.status.plan is not None
    assert world.status.plan.measured_gib == "60.00"
    world.planner = FixedPlanner(make_plan(prediction=PREDICTION, micro_batch_size=1, gradient_accumulation=16))
    for _ in range(4):
        world.advance(60)
        world.settle()
        if "tune-inspect" in world.children:
            world.inspect()
    world.settle()
    world.train_to(21, attempt=2)
    world.finish("tune-2", ended_pod(0, attempt=2, peak=3 * GIB), ended_pod(ExitCode.INPUTS_CHANGED, peak=60 * GIB))
    world.settle()
    assert world.status.plan.measured_gib == "3.00"
    world.finish("tune-publish", ended_pod(0, component="publish", result_uri="s3://models/tune"))
    world.settle()
    run = told(world)
    assert run is not None
    assert run.peak_bytes == 3 * GIB
