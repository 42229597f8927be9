"""Pods that are gone, or were deleted: what the batch Job has seen of them counts beside what the others say."""

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.jobs.testing import ended_pod, running

MESSAGES = {
    "Container trainer for pod team/tune-1-0-x failed with exit code 137 matching FailJob rule at index 2": (
        Reason.TERMINATED,
        False,
    ),
    "Container trainer for pod team/tune-1-0-x failed with exit code 47 matching FailJob rule at index 2": (
        Reason.HANG,
        True,
    ),
    "Pod team/tune-1-0-x has condition DisruptionTarget matching FailJob rule at index 0": (Reason.DISRUPTED, False),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_when_the_pods_are_gone_the_jobs_own_condition_names_the_cause(message: str) -> None:
    world = running()
    world.fail("tune-1", message=message)
    world.advance(10)
    world.settle()
    first = world.status.attempts[0]
    assert (first.reason, first.charged) == MESSAGES[message]


def test_a_pod_that_somebody_deleted_is_not_charged() -> None:
    world = running()
    world.fail("tune-1", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
    world.settle()
    world.advance(10)
    world.settle()
    first = world.status.attempts[0]
    assert (first.reason, first.charged) == (Reason.TERMINATED, False)
    assert "deleted from outside" in first.message


EVICTED = "Pod team/tune-1-1-x has condition DisruptionTarget matching FailJob rule at index 0"
GONE = "Container trainer for pod team/tune-1-1-x failed with exit code 47 matching FailJob rule at index 2"
BESIDE = {
    "a peer that saved says less than the eviction of the pod that is gone": (49, EVICTED, (Reason.DISRUPTED, False)),
    "a peer that was lost says less than the cause of the pod that is gone": (48, GONE, (Reason.HANG, True)),
    "a peer that was lost says less than the deletion of a pod": (48, "", (Reason.TERMINATED, False)),
    "a cause that a pod names itself stands above all": (47, EVICTED, (Reason.HANG, True)),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_the_job_has_seen_of_a_pod_that_is_gone_counts_beside_the_symptoms_of_its_peers(case: str) -> None:
    code, message, expected = BESIDE[case]
    world = running()
    world.fail(
        "tune-1", ended_pod(code), reason="PodFailurePolicy" if message else "BackoffLimitExceeded", message=message
    )
    world.advance(10)
    world.settle()
    first = world.status.attempts[0]
    assert (first.reason, first.charged) == expected


def test_a_pod_that_is_still_there_knows_better_than_the_job_what_its_code_means() -> None:
    world = running()
    stopped = ended_pod(137, silent=True, deleted=True)
    world.fail("tune-1", stopped, message=GONE.replace("tune-1-1-x", stopped.name).replace("47", "137"))
    world.advance(10)
    world.settle()
    assert world.status.attempts[0].reason is Reason.TERMINATED


def test_nobody_waits_for_other_pods_words_when_all_have_ended() -> None:
    world = running()
    world.fail("tune-1", ended_pod(49), kind="Failed", reason="BackoffLimitExceeded")
    world.settle()
    assert [(a.number, a.reason) for a in world.status.attempts] == [(1, Reason.TERMINATED), (2, None)]
