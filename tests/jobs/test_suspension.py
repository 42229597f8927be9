"""Suspension and resumption: what is shown, what is kept, and that nothing old meets anything new."""

from dataclasses import replace

from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.testing import (
    World,
    ended_pod,
    job_names,
    make_job,
    reason,
    trained,
)


def test_suspended_before_its_start_a_job_shows_its_plan_and_takes_nothing() -> None:
    world = World(make_job(run={"suspend": True}))
    world.settle()
    world.inspect()
    world.settle()
    assert world.children["tune-1"].suspended
    assert (world.status.state, world.status.start_time) == (JobState.SUSPENDED, None)
    assert world.status.plan is not None
    world.change_spec(run={"suspend": False})
    world.settle()
    assert not world.children["tune-1"].suspended
    assert world.status.start_time is not None
    assert [attempt.number for attempt in world.status.attempts] == [1]


def test_a_spec_changed_while_suspended_before_the_start_is_planned_anew() -> None:
    world = World(make_job(run={"suspend": True}))
    world.settle()
    world.inspect()
    world.settle()
    world.change_spec(run={"suspend": True}, training={"maxSteps": 5})
    world.settle()
    assert "tune-1" not in world.children
    assert world.files[2].spec.training.max_steps == 5
    assert [(a.number, a.reason, a.charged) for a in world.status.attempts] == [
        (1, Reason.REPLANNED, False),
        (2, None, False),
    ]


def test_suspend_and_resume_in_mid_run_keep_the_attempt() -> None:
    world = trained()
    world.change_spec(run={"suspend": True})
    world.settle()
    assert world.children["tune-1"].suspended
    assert world.status.state is JobState.SUSPENDED
    assert reason(world, ConditionType.SUSPENDED) == ("True", Reason.SUSPENDED_BY_USER)
    world.children["tune-1"] = replace(world.children["tune-1"], active=0)
    world.pods = []
    world.advance(3600)
    world.change_spec(run={"suspend": False})
    world.settle()
    assert (job_names(world), world.children["tune-1"].suspended) == (["tune-1", "tune-inspect"], False)
    assert reason(world, ConditionType.SUSPENDED) == ("False", Reason.RESUMED)
    assert world.status.state is JobState.STARTING
    world.train_to(9)
    world.settle()
    assert world.status.state is JobState.RUNNING
    assert reason(world, ConditionType.STALLED) == ("False", Reason.PROGRESSING)


def test_pods_that_a_suspension_stopped_do_not_count_as_a_failure() -> None:
    world = trained()
    world.change_spec(run={"suspend": True})
    world.settle()
    world.fail("tune-1", ended_pod(137, silent=True))
    world.settle()
    assert [(a.result, a.charged) for a in world.status.attempts] == [("Failed", False), ("Suspended", False)]


def test_a_job_whose_config_map_was_deleted_by_hand_can_still_be_suspended() -> None:
    world = trained()
    del world.files[1]
    world.change_spec(run={"suspend": True})
    world.settle()
    assert world.children["tune-1"].suspended
    assert (sorted(world.files), [attempt.number for attempt in world.status.attempts]) == ([1], [1])


def test_a_job_can_be_suspended_between_training_and_publication() -> None:
    world = trained()
    world.change_spec(run={"suspend": True})
    world.settle()
    world.finish("tune-1", ended_pod(0))
    world.settle()
    assert (world.status.state, world.children["tune-publish"].suspended) == (JobState.SUSPENDED, True)
    world.change_spec(run={"suspend": False})
    world.settle()
    assert (world.status.state, world.children["tune-publish"].suspended) == (JobState.PUBLISHING, False)


def test_a_job_goes_on_only_when_its_pods_from_before_the_suspension_have_ended() -> None:
    world = trained()
    world.change_spec(run={"suspend": True})
    world.settle()
    world.children["tune-1"] = replace(world.children["tune-1"], active=0, terminating=1)
    world.change_spec(run={"suspend": False})

    waiting = world.settle()

    assert world.children["tune-1"].suspended
    assert waiting.requeue_after is not None
    world.children["tune-1"] = replace(world.children["tune-1"], terminating=0)
    world.pods = [replace(pod, phase="Failed", running=False) for pod in world.pods]
    world.settle()
    assert not world.children["tune-1"].suspended
