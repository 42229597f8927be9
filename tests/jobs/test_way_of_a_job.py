"""From apply to Complete, and the ways around: what is made, what is shown, and why nothing is made twice."""

from dataclasses import replace

import pytest

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.testing import (
    FixedPlanner,
    World,
    ended_pod,
    job_names,
    make_job,
    make_plan,
    make_pod,
    make_report,
    reason,
    trained,
)
from finetune_operator.jobs.waiting import VOLUME_SECONDS


def test_a_job_goes_from_apply_to_complete() -> None:
    world = World(planner=FixedPlanner(make_plan(pods=2)))
    world.settle()
    assert (world.status.state, job_names(world)) == (JobState.INSPECTING, ["tune-inspect"])

    world.inspect()
    world.settle()
    assert (world.status.state, job_names(world)) == (JobState.STARTING, ["tune-1", "tune-inspect"])
    assert world.services == {"tune-1"}
    assert world.status.plan is not None
    assert world.status.plan.expected_gib == "1.00"

    world.train_to(3)
    world.settle()
    assert (world.status.state, reason(world, ConditionType.RUNNING)) == (JobState.RUNNING, ("True", Reason.TRAINING))

    world.finish("tune-1", ended_pod(0, peak=3 * 2**30), ended_pod(0, index=1, peak=2**30))
    world.settle()
    assert (world.status.state, job_names(world)) == (JobState.PUBLISHING, ["tune-1", "tune-inspect", "tune-publish"])
    assert world.status.plan.measured_gib == "3.00"

    published = {"result_uri": "s3://models/tune", "destinations": ("oci://r.io/a/b:c@sha256:d",)}
    world.finish("tune-publish", ended_pod(0, component="publish", attempt=1, name="publish-x", **published))
    world.settle()
    assert world.status.state is JobState.COMPLETE
    assert reason(world, ConditionType.COMPLETE) == ("True", Reason.SUCCEEDED)
    assert world.status.result is not None
    assert world.status.result.uri == "s3://models/tune"
    assert world.status.result.destinations == ("oci://r.io/a/b:c@sha256:d",)
    assert world.status.message == "the model is at s3://models/tune, oci://r.io/a/b:c@sha256:d"
    assert world.status.completion_time is not None
    assert world.status.plan.measured_gib == "3.00"
    assert [attempt.result for attempt in world.status.attempts] == ["Succeeded"]


def test_all_known_conditions_are_there_from_the_first_status_on() -> None:
    world = World()
    world.reconcile()
    assert {c.type for c in world.status.conditions} == set(ConditionType)


def test_the_report_of_an_equal_job_spares_the_inspect_pod_and_is_copied() -> None:
    world = World()
    other = make_report(make_job("other"))
    world.report = make_report(world.job).model_copy(update={"job": other.job})
    world.report_owned, world.report_age = False, 3600.0
    first = world.reconcile()
    assert [body["metadata"]["name"] for body in first.objects] == ["tune-inspection", "tune-1", "tune-1"]
    assert reason(world, ConditionType.INSPECTED) == ("True", Reason.INSPECTION_REUSED)


def test_the_report_of_an_equal_job_is_not_used_after_a_day() -> None:
    world = World()
    world.report, world.report_owned, world.report_age = make_report(world.job), False, 24 * 3600.0 + 1
    world.settle()
    assert job_names(world) == ["tune-inspect"]


def test_a_report_about_another_spec_is_not_used() -> None:
    world = World()
    world.report = make_report(make_job(dataset={"uri": "s3://data/other.jsonl"}))
    world.settle()
    assert job_names(world) == ["tune-inspect"]


def test_a_report_that_does_not_arrive_is_asked_for_again() -> None:
    world = World()
    world.settle()
    world.finish("tune-inspect")
    assert world.settle().requeue_after is not None
    world.advance(61)
    desired = world.reconcile()
    assert [reference.name for reference in desired.deletions] == ["tune-inspect"]
    world.settle()
    assert world.children["tune-inspect"].created == world.now


def test_a_spec_changed_before_its_inspection_is_inspected_anew() -> None:
    world = World()
    world.settle()
    world.change_spec(dataset={"uri": "s3://data/other.jsonl"})
    world.advance(1)
    world.settle()
    assert world.children["tune-inspect"].created == world.now


def test_someone_elses_object_is_a_condition_and_never_touched() -> None:
    world = World()
    world.foreign = ("Job/tune-1",)
    desired = world.reconcile()
    assert (desired.objects, desired.deletions) == ((), ())
    assert reason(world, ConditionType.ACCEPTED) == ("False", Reason.CHILD_NOT_OURS)
    assert "Job/tune-1" in (world.status.message or "")
    world.foreign = ()
    world.settle()
    assert reason(world, ConditionType.ACCEPTED) == ("True", Reason.ACCEPTED)


@pytest.mark.parametrize(("waits", "seconds"), [(True, 60.0), (False, 600.0)])
def test_without_a_plan_the_job_says_why_and_is_planned_again(waits: bool, seconds: float) -> None:
    error = PlanError(reason="NoCapacity", message="needs 2 × H100; add nodes", waits=waits)
    world = World(planner=FixedPlanner(error))
    world.settle()
    world.inspect()
    desired = world.settle()
    assert (world.status.state, desired.requeue_after) == (JobState.PENDING, seconds)
    assert reason(world, ConditionType.PLANNED) == ("False", Reason.NO_CAPACITY)
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)
    world.planner = FixedPlanner()
    world.settle()
    assert "tune-1" in world.children
    assert reason(world, ConditionType.STALLED) == ("False", Reason.PROGRESSING)


def test_a_job_that_is_silent_for_a_quarter_of_an_hour_is_stalled() -> None:
    world = trained()
    desired = world.settle()
    assert desired.requeue_after is not None
    assert 0 < desired.requeue_after <= 900
    world.advance(901)
    world.settle()
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)
    assert "15 minutes" in (world.status.message or "")
    world.train_to(4)
    world.settle()
    assert reason(world, ConditionType.STALLED) == ("False", Reason.PROGRESSING)


def test_the_deadline_ends_the_job_and_stops_its_pods() -> None:
    world = trained(World(make_job(run={"deadline": "1h"})))
    desired = world.settle()
    assert desired.requeue_after is not None
    world.advance(3601)
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.DEADLINE_EXCEEDED)
    assert world.children["tune-1"].suspended
    assert [(a.result, a.reason) for a in world.status.attempts] == [("Failed", Reason.DEADLINE_EXCEEDED)]


def test_a_finished_job_is_deleted_after_its_time_to_live() -> None:
    world = trained(World(make_job(run={"ttlAfterFinished": "1h"})))
    world.fail("tune-1", ended_pod(46))
    desired = world.settle()
    assert (world.status.state, desired.requeue_after, desired.delete_job) == (JobState.FAILED, 3600.0, False)
    world.advance(3600)
    assert world.reconcile().delete_job


def test_an_attempts_job_deleted_by_hand_is_made_again_under_its_number() -> None:
    world = trained()
    del world.children["tune-1"]
    world.settle()
    assert [attempt.number for attempt in world.status.attempts] == [1]
    assert "tune-1" in world.children


def test_a_job_whose_pods_do_not_start_for_a_quarter_of_an_hour_is_stalled() -> None:
    world = World()
    world.settle()
    world.inspect()
    world.settle()
    world.pods = [make_pod(phase="Pending", running=False)]
    world.settle()
    assert reason(world, ConditionType.STALLED)[0] == "False"
    world.advance(900)
    world.settle()
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)


def test_a_plan_deleted_by_hand_is_written_again_for_a_publication_that_waits_for_it() -> None:
    world = trained()
    world.finish("tune-1", ended_pod(0))
    world.settle()
    del world.files[1]
    world.pods = [make_pod("publish", phase="Pending", running=False, created=world.now)]
    world.advance(VOLUME_SECONDS)
    world.settle()
    assert 1 in world.files


def test_a_plan_deleted_by_hand_before_its_pods_start_is_made_again_with_its_job() -> None:
    world = World()
    world.settle()
    world.inspect()
    world.settle()
    del world.files[1]
    world.pods = [make_pod(phase="Pending", running=False, created=world.now)]
    world.advance(VOLUME_SECONDS)
    world.reconcile()
    assert "tune-1" not in world.children
    world.pods = []
    world.settle()
    assert 1 in world.files
    assert "tune-1" in world.children


def test_events_tell_each_turn_once() -> None:
    world = trained()
    world.finish("tune-1", ended_pod(0))
    world.settle()
    world.finish("tune-publish")
    world.settle()
    told = [event.reason for desired in world.history for event in desired.events]
    assert told == [
        Reason.ACCEPTED,
        Reason.INSPECTED,
        Reason.PLANNED,
        Reason.TRAINING,
        Reason.PUBLISHED,
        Reason.SUCCEEDED,
    ]


def test_the_deadline_holds_also_while_a_name_is_taken_by_someone_else() -> None:
    world = trained(World(make_job(run={"deadline": "1h"})))
    world.foreign = ("Job/tune-publish",)
    world.advance(3601)
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.DEADLINE_EXCEEDED)


def test_the_second_attempt_keeps_the_plan_although_the_cluster_has_changed() -> None:
    world = trained()
    world.planner = FixedPlanner(make_plan(pods=3))
    world.fail("tune-1", ended_pod(1))
    world.settle()
    assert world.files[2].plan == world.files[1].plan


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_job_whose_pods_have_just_ended_does_not_look_like_one_that_starts(phase: str) -> None:
    world = trained()
    world.pods = [replace(ended_pod(0), phase=phase, running=False)]
    world.settle()
    assert world.status.state is JobState.RUNNING


def test_an_attempts_job_that_was_deleted_comes_back_although_retries_were_changed_meanwhile() -> None:
    world = trained()
    file = world.files[1]
    world.change_spec(run={"retries": 9})
    del world.children["tune-1"]
    world.pods = []

    world.settle()

    assert "tune-1" in world.children
    assert world.files[1] == file
