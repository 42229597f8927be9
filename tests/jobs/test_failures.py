"""What follows a failure: which cause counts, whether another attempt comes, and what people are told."""

from dataclasses import replace

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.retry import cause_of_message, delay_before_next
from finetune_operator.jobs.testing import (
    ended_pod,
    later,
    make_pod,
    reason,
    running,
)

CAUSES = {
    "the earliest real cause wins over a later one": (
        [ended_pod(45, finished=later(9)), ended_pod(1, index=1, finished=later(8))],
        (Reason.TRAINER_ERROR, 1, True),
    ),
    "a lost peer is a symptom even when it is first": (
        [ended_pod(48, finished=later(1)), ended_pod(47, index=1, finished=later(5))],
        (Reason.HANG, 47, True),
    ),
    "a stopped pod is a symptom": (
        [ended_pod(49, finished=later(1)), ended_pod(44, index=1, finished=later(5))],
        (Reason.STORAGE_UNAVAILABLE, 44, True),
    ),
    "of symptoms alone the first one counts": (
        [ended_pod(49, finished=later(4)), ended_pod(48, index=1, finished=later(3))],
        (Reason.PEER_LOST, 48, True),
    ),
    "of symptoms in one second the lost peer was first": (
        [ended_pod(49, finished=later(3)), ended_pod(48, index=1, finished=later(3))],
        (Reason.PEER_LOST, 48, True),
    ),
    "killed for memory is another reason than killed": (
        [ended_pod(137, container_reason="OOMKilled", silent=True)],
        (Reason.HOST_OUT_OF_MEMORY, 137, False),
    ),
    "a child killed for memory shows as exit code 1 with OOMKilled": (
        [ended_pod(1, container_reason="OOMKilled")],
        (Reason.HOST_OUT_OF_MEMORY, 1, False),
    ),
    "killed without OOMKilled is a killed rank": ([ended_pod(137, silent=True)], (Reason.RANK_KILLED, 137, True)),
    "a rank killed inside the pod is named by the trainer": (
        [ended_pod(137, reason=Reason.RANK_KILLED)],
        (Reason.RANK_KILLED, 137, True),
    ),
    "a pod taken away is not charged": (
        [ended_pod(143, silent=True, disrupted="evicted by the API")],
        (Reason.DISRUPTED, 143, False),
    ),
    "a pod taken away that had failed before keeps its cause": (
        [ended_pod(44, disrupted="evicted by the API")],
        (Reason.STORAGE_UNAVAILABLE, 44, True),
    ),
    "a pod killed at the end of its grace period was stopped from outside": (
        [ended_pod(137, silent=True, deleted=True)],
        (Reason.TERMINATED, 137, False),
    ),
    "an unknown code is an error nobody foresaw": ([ended_pod(7, silent=True)], (Reason.TRAINER_ERROR, 7, True)),
    "a code that disagrees with the last words wins": (
        [replace(ended_pod(45), exit_code=137)],
        (Reason.RANK_KILLED, 137, True),
    ),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_first_cause_is_recorded_and_the_next_attempt_follows(case: str) -> None:
    pods, expected = CAUSES[case]
    world = running()
    world.fail("tune-1", *pods)
    world.settle()
    world.advance(10)
    world.settle()
    first, second = world.status.attempts
    assert (first.reason, first.exit_code, first.charged) == expected
    assert (second.number, second.result) == (2, "Running")
    assert world.files[2].charged_before == int(expected[2])
    assert (world.files[2].plan == world.files[1].plan) is (first.reason is not Reason.HOST_OUT_OF_MEMORY)
    assert world.services == {"tune-1", "tune-2"}


def test_a_lost_peer_waits_ten_seconds_for_another_pods_cause() -> None:
    world = running()
    world.fail("tune-1", ended_pod(48), make_pod(index=1))
    desired = world.settle()
    assert "tune-2" not in world.children
    assert desired.requeue_after == 10.0
    world.advance(4)
    world.pods = [ended_pod(48), ended_pod(45, index=1)]
    world.settle()
    assert world.status.attempts[0].reason is Reason.GPU_OUT_OF_MEMORY


def test_a_lost_peer_alone_becomes_the_cause_after_ten_seconds() -> None:
    world = running()
    world.fail("tune-1", ended_pod(48), make_pod(index=1))
    world.settle()
    world.advance(10)
    world.settle()
    assert [(a.number, a.reason) for a in world.status.attempts] == [(1, Reason.PEER_LOST), (2, None)]


def test_a_new_attempt_says_why_it_is_not_the_first_until_it_trains() -> None:
    world = running()
    world.fail("tune-1", ended_pod(49, step=7, disrupted="Eviction API: evicting"))
    world.settle()
    told = "attempt 1 ended after step 7: Disrupted (not charged to run.retries): pod tune-1-0-abcde: Eviction API: evicting"
    assert world.status.message == f"attempt 2: 2 of 2 pods not created or not scheduled yet; {told}"
    world.train_to(8, attempt=2)
    world.settle()
    assert world.status.message == "attempt 2 trains"


def test_a_failure_that_nobody_explains_is_taken_as_it_is_after_ten_seconds() -> None:
    world = running()
    world.fail("tune-1", kind="Failed", message="deleted by an administrator")
    world.settle()
    assert "tune-2" not in world.children
    world.advance(10)
    world.settle()
    assert world.status.attempts[0].reason is Reason.TRAINER_ERROR
    assert "deleted by an administrator" in world.status.attempts[0].message


FINAL = {40: Reason.INVALID_SPEC, 41: Reason.INVALID_DATA, 46: Reason.DIVERGED}


@pytest.mark.parametrize("code", FINAL)
def test_what_another_try_cannot_mend_ends_the_job_with_a_remedy(code: int) -> None:
    world = running()
    world.fail("tune-1", ended_pod(code))
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", FINAL[code])
    assert reason(world, ConditionType.COMPLETE)[0] == "False"
    assert "Remedy:" in (world.status.message or "")
    assert "tune-2" not in world.children


def test_retries_are_exhausted_by_charged_failures_only() -> None:
    world = running(run={"retries": 1})
    ends = [{"code": 1}, {"code": 143, "silent": True, "disrupted": "drained"}, {"code": 1}]
    for number, end in enumerate(ends, start=1):
        if number > 1:
            world.train_to(3, attempt=number)
            world.advance(300)
        world.fail(f"tune-{number}", ended_pod(attempt=number, **end))
        world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.RETRIES_EXHAUSTED)
    assert "TrainerError: what happened." in (world.status.message or "")
    assert [attempt.charged for attempt in world.status.attempts] == [True, False, True]


def test_the_count_of_failures_survives_a_lost_status_and_deleted_old_attempts() -> None:
    world = running(pods=1, run={"retries": 7})
    for number in range(1, 8):
        world.fail(f"tune-{number}", ended_pod(1, attempt=number))
        world.settle()
        world.train_to(3, attempt=number + 1)
        world.advance(300)
    assert world.files[8].charged_before == 7
    assert sorted(world.files) == [7, 8]
    world.lose_status()
    world.settle()
    world.fail("tune-8", ended_pod(1, attempt=8))
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.RETRIES_EXHAUSTED)
    assert "8 failed attempts" in (world.status.message or "")


def test_only_the_newest_two_attempts_keep_their_objects_and_five_their_story() -> None:
    world = running(run={"retries": 10})
    for number in range(1, 7):
        world.fail(f"tune-{number}", ended_pod(1, attempt=number))
        world.settle()
        world.train_to(3, attempt=number + 1)
        world.advance(300)
    assert sorted(name for name in world.children if name != "tune-inspect") == ["tune-6", "tune-7"]
    assert (sorted(world.files), world.services) == ([6, 7], {"tune-6", "tune-7"})
    assert [attempt.number for attempt in world.status.attempts] == [3, 4, 5, 6, 7]


def test_attempts_that_fail_at_once_follow_each_other_ever_more_slowly() -> None:
    world = running(pods=1)
    world.advance(-300)
    world.fail("tune-1", ended_pod(1))
    world.settle()
    world.fail("tune-2", ended_pod(1, attempt=2))
    desired = world.settle()
    assert ("tune-3" in world.children, desired.requeue_after, world.status.state) == (False, 10.0, JobState.STARTING)
    world.advance(10)
    world.settle()
    assert "tune-3" in world.children
    assert [delay_before_next(count) for count in range(8)] == [0, 0, 10, 20, 40, 80, 160, 300]


def test_attempts_that_fail_soon_and_get_further_follow_each_other_at_once() -> None:
    world = running(pods=1)
    world.advance(-300)
    for number in range(1, 5):
        world.fail(f"tune-{number}", ended_pod(143, attempt=number, silent=True, disrupted="drained"))
        world.settle()
        assert f"tune-{number + 1}" in world.children
        world.train_to(3 + number, attempt=number + 1)
        world.settle()


def test_changed_inputs_are_inspected_again_and_not_charged() -> None:
    world = running()
    old = world.report
    world.fail("tune-1", ended_pod(42))
    world.settle()
    assert ("tune-2" in world.children, world.children["tune-inspect"].created) == (False, world.now)
    assert world.report is None
    world.advance(5)
    world.inspect(rows=120)
    world.settle()
    assert old is not None
    assert world.files[2].inspection.dataset.rows == 120
    assert world.files[2].charged_before == 0
    assert reason(world, ConditionType.PLANNED)[0] == "True"


@pytest.mark.parametrize(
    "message", ["the bucket does not exist; check the URI", "the bucket does not exist; check the URI."]
)
def test_what_is_said_after_a_cause_is_a_sentence_of_its_own(message: str) -> None:
    told = TerminationMessage(exit_code=ExitCode.NOT_FOUND, reason=Reason.STORAGE_REFUSED, message=message)
    assert cause_of_message(told).sentence == "the bucket does not exist; check the URI."
