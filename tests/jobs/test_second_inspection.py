"""A model that no table knows: inspected again in the trainer's image, once, and what follows from the answer."""

from typing import Any

import pytest

from finetune_operator.api.architecture_trace import ArchitectureTrace
from finetune_operator.api.history import History
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.jobs.children import inspect_job
from finetune_operator.jobs.names import spec_hash
from finetune_operator.jobs.testing import SETTINGS, FixedPlanner, World, job_names, make_plan, make_report, reason
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import NO_LIMITS, Limits

TRACE = ArchitectureTrace(
    model_type="opt",
    hidden=64,
    vocabulary=512,
    tied_embeddings=True,
    layers=(),
    outer=(),
    passes=(),
    rank=16,
    adapter_parameters=0,
)


class TracingPlanner(FixedPlanner):
    """Plans a model only once its report says what a trace found, as the real planner does with one it does not know."""

    def __call__(
        self,
        spec: FineTuneJobSpec,
        inspection: InspectionReport,
        inventory: Inventory,
        *,
        history: History,
        limits: Limits = NO_LIMITS,
    ) -> Plan | PlanError:
        if inspection.model.trace is not None:
            return make_plan()
        error = inspection.model.trace_error
        message = f"opt is not known; {error}" if error else "opt is not known"
        return PlanError(reason=Reason.UNKNOWN_ARCHITECTURE, message=message, needs_trace=error is None)


def report_of(world: World, **facts: Any) -> InspectionReport:
    report = make_report(world.job, finished=world.now)
    return report.model_copy(
        update={"model": report.model.model_copy(update={"config": {"model_type": "opt"}, **facts})}
    )


def inspected(world: World, **facts: Any) -> None:
    """Let the inspect pod finish and report."""
    world.advance(2)
    world.finish("tune-inspect")
    world.report, world.report_owned = report_of(world, **facts), True


def inspect_jobs(world: World) -> list[list[str]]:
    """Return image and arguments of every inspect Job that was applied so far."""
    pods = [
        body["spec"]["template"]["spec"]["containers"][0]
        for desired in world.history
        for body in desired.objects
        if body["metadata"]["name"] == "tune-inspect"
    ]
    return [[pod["image"], *pod["args"]] for pod in pods]


@pytest.fixture
def world() -> World:
    """A job whose first inspection has reported a model of a type that no table has."""
    made = World(planner=TracingPlanner())
    made.settle()
    inspected(made)
    made.settle()
    return made


def test_the_second_inspection_runs_in_the_trainers_image_under_the_same_name(world: World) -> None:
    assert inspect_jobs(world) == [
        [SETTINGS.inspect_image, "inspect", "--job", "/etc/finetune/request.json"],
        [SETTINGS.trainer_image, "inspect", "--trace", "--job", "/etc/finetune/request.json"],
    ]
    assert job_names(world) == ["tune-inspect"]
    assert reason(world, ConditionType.INSPECTED) == ("Unknown", Reason.INSPECTING)
    assert any("'opt'" in (desired.status.message or "") for desired in world.history)
    assert world.status.inspection is not None


def test_the_second_inspection_is_made_once_and_its_trace_is_planned_by(world: World) -> None:
    for _ in range(3):
        world.advance(20)
        world.settle()
    inspected(world, trace=TRACE)
    world.settle()
    assert len(inspect_jobs(world)) == 2
    assert (world.status.state, job_names(world)) == (JobState.STARTING, ["tune-1", "tune-inspect"])
    del world.children["tune-inspect"]  # an hour later, by its own time to live
    world.settle()
    assert len(inspect_jobs(world)) == 2


def test_what_cannot_be_traced_either_is_said_with_the_error_and_not_asked_again(world: World) -> None:
    inspected(world, trace_error="ValueError: no list of layers")
    desired = world.settle()
    assert (world.status.state, desired.requeue_after) == (JobState.PENDING, 600.0)
    assert reason(world, ConditionType.PLANNED) == ("False", Reason.UNKNOWN_ARCHITECTURE)
    assert "no list of layers" in (world.status.message or "")
    world.advance(600)
    world.settle()
    assert len(inspect_jobs(world)) == 2


def test_another_jobs_report_without_a_trace_becomes_this_jobs_own_before_it_is_traced() -> None:
    world = World(planner=TracingPlanner())
    world.report, world.report_owned, world.report_age = report_of(world), False, 60.0
    first = world.reconcile()
    assert [(body["kind"], body["metadata"]["name"]) for body in first.objects] == [
        ("ConfigMap", "tune-inspection"),
        ("Job", "tune-inspect"),
    ]
    world.settle()
    assert inspect_jobs(world) == [
        [SETTINGS.trainer_image, "inspect", "--trace", "--job", "/etc/finetune/request.json"]
    ]


def test_an_older_pod_that_reports_late_is_followed_by_another_trace(world: World) -> None:
    inspected(world)
    world.settle()
    world.advance(61)
    world.settle()
    assert len(inspect_jobs(world)) == 3
    inspected(world, trace=TRACE)
    world.settle()
    assert world.status.state is JobState.STARTING


def test_a_report_that_was_deleted_by_hand_is_made_again_from_the_start(world: World) -> None:
    world.report = None
    world.settle()
    assert inspect_jobs(world)[-1][0] == SETTINGS.inspect_image
    inspected(world)
    world.settle()
    assert inspect_jobs(world)[-1][0] == SETTINGS.trainer_image


def test_a_changed_spec_is_inspected_before_it_is_traced(world: World) -> None:
    world.change_spec(dataset={"uri": "s3://data/other.jsonl"})
    world.settle()
    assert inspect_jobs(world)[-1][0] == SETTINGS.inspect_image


def test_a_trace_has_more_memory_than_an_inspection_and_another_digest() -> None:
    job = World().job
    plain, tracing = inspect_job(job, SETTINGS), inspect_job(job, SETTINGS, trace=True)
    assert spec_hash(plain) != spec_hash(tracing)
    limits = [
        body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] for body in (plain, tracing)
    ]
    assert limits == ["2048Mi", "4096Mi"]
