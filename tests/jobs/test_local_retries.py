"""`finetune run` goes on after a failure by the policy of the operator."""

import pytest

from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.jobs.retry import GiveUp, Retry, next_after_failure


def failure(reason: Reason, code: int) -> TerminationMessage:
    return TerminationMessage(reason=reason, exit_code=code, message="why.")


LOCAL = [
    ([failure(Reason.TRAINER_ERROR, 1)], 1, Retry()),
    ([failure(Reason.RANK_KILLED, 137)], 1, Retry()),
    ([failure(Reason.TERMINATED, 49)] * 9, 0, Retry()),
    ([failure(Reason.INPUTS_CHANGED, 42)], 0, Retry(inspect_again=True)),
]


@pytest.mark.parametrize(("failures", "retries", "expected"), LOCAL)
def test_a_local_run_retries_by_the_same_policy(
    failures: list[TerminationMessage], retries: int, expected: Retry
) -> None:
    assert next_after_failure(failures, retries) == expected


def test_a_local_run_gives_up_by_the_same_policy() -> None:
    end = next_after_failure([failure(Reason.TRAINER_ERROR, 1)] * 2, 1)
    assert isinstance(end, GiveUp)
    assert end.reason is Reason.RETRIES_EXHAUSTED
    bad = next_after_failure([failure(Reason.DIVERGED, 46)], 9)
    assert isinstance(bad, GiveUp)
    assert bad.reason is Reason.DIVERGED
