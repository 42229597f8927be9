"""The first cause in time, from what ranks and their parent wrote."""

from __future__ import annotations

import signal

import pytest

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.reasons import Reason
from finetune_trainer.causes import Cause, first_cause
from finetune_trainer.rank_files import RankDeath, RankError


def error(rank: int, time: float, code: ExitCode, step: int | None = 7) -> RankError:
    return RankError(rank=rank, time=time, exit_code=code, reason=meaning_of(code).reason, message="why", step=step)


def killed(rank: int, time: float, number: int = signal.SIGKILL) -> RankDeath:
    return RankDeath(rank=rank, time=time, status=-number)


def cause_of(
    errors: list[RankError],
    deaths: list[RankDeath] | None = None,
    *,
    terminated: bool = False,
    host_out_of_memory: bool = False,
    agent_status: int = 0,
) -> Cause:
    return first_cause(
        errors,
        deaths or [],
        terminated=terminated,
        host_out_of_memory=host_out_of_memory,
        agent_status=agent_status,
    )


def test_the_earliest_error_is_the_cause() -> None:
    found = cause_of([error(1, 11.0, ExitCode.BUG), error(0, 10.0, ExitCode.DIVERGED)])

    assert (found.exit_code, found.rank, found.step) == (ExitCode.DIVERGED, 0, 7)


def test_a_lost_peer_is_never_the_cause_when_another_is_known() -> None:
    found = cause_of([error(0, 1.0, ExitCode.PEER_LOST), error(1, 2.0, ExitCode.GPU_OUT_OF_MEMORY)])

    assert found.exit_code is ExitCode.GPU_OUT_OF_MEMORY


def test_a_lost_peer_alone_is_the_cause() -> None:
    assert cause_of([error(0, 1.0, ExitCode.PEER_LOST)]).reason is Reason.PEER_LOST


def test_a_killed_rank_is_the_cause_although_its_peers_spoke_first() -> None:
    found = cause_of([error(0, 10.2, ExitCode.PEER_LOST)], [killed(1, 10.0)])

    assert (found.exit_code, found.reason, found.rank) == (ExitCode.KILLED, Reason.RANK_KILLED, 1)


def test_a_rank_killed_by_the_kernel_ran_out_of_host_memory() -> None:
    found = cause_of([], [killed(1, 10.0)], host_out_of_memory=True)

    assert (found.exit_code, found.reason) == (ExitCode.KILLED, Reason.HOST_OUT_OF_MEMORY)


def test_ranks_whose_parent_was_killed_for_memory_too_left_no_word_and_have_the_same_cause() -> None:
    assert cause_of([], host_out_of_memory=True).reason is Reason.HOST_OUT_OF_MEMORY
    assert cause_of([]).reason is Reason.TRAINER_ERROR


def test_a_torchrun_that_was_killed_tells_of_no_deaths_and_is_the_cause_itself() -> None:
    found = cause_of([], agent_status=-signal.SIGKILL)

    assert (found.exit_code, found.reason, found.rank) == (ExitCode.KILLED, Reason.RANK_KILLED, None)
    assert cause_of([error(0, 1.0, ExitCode.DIVERGED)], agent_status=-signal.SIGKILL).exit_code is ExitCode.DIVERGED
    assert cause_of([], agent_status=1).reason is Reason.TRAINER_ERROR


def test_a_rank_that_wrote_an_error_is_not_judged_by_its_exit_status() -> None:
    found = cause_of([error(0, 10.9, ExitCode.DIVERGED)], [RankDeath(rank=0, time=10.0, status=46)])

    assert found.exit_code is ExitCode.DIVERGED


@pytest.mark.parametrize("code", [ExitCode.HANG, ExitCode.DISK_FULL])
def test_a_rank_without_a_word_is_judged_by_a_code_of_ours(code: ExitCode) -> None:
    found = cause_of([], [RankDeath(rank=2, time=10.0, status=int(code))])

    assert (found.exit_code, found.reason, found.rank) == (code, meaning_of(code).reason, 2)


def test_a_pod_that_waited_for_another_pods_rank_has_lost_a_peer() -> None:
    code = ExitCode.PEER_LOST
    found = cause_of([error(0, 1.0, code)], [RankDeath(rank=rank, time=9.0, status=int(code)) for rank in (0, 1)])

    assert (found.exit_code, found.message) == (code, "why")


def test_ranks_killed_after_the_pod_was_told_to_stop_are_no_new_cause() -> None:
    assert cause_of([], [killed(0, 10.0)], terminated=True).exit_code is ExitCode.TERMINATED


def test_a_stop_that_all_agreed_on_goes_before_a_lost_peer() -> None:
    found = cause_of([error(0, 1.0, ExitCode.PEER_LOST), error(1, 2.0, ExitCode.TERMINATED)])

    assert found.exit_code is ExitCode.TERMINATED


@pytest.mark.parametrize(("number", "code"), [(signal.SIGSEGV, ExitCode.BUG), (signal.SIGTERM, ExitCode.TERMINATED)])
def test_other_signals_are_told_by_name(number: int, code: ExitCode) -> None:
    found = cause_of([], [killed(3, 1.0, number)])

    assert found.exit_code is code
    assert signal.Signals(number).name in found.message


def test_ranks_that_end_without_a_word_are_a_bug() -> None:
    assert cause_of([]).exit_code is ExitCode.BUG
