"""A rank that hangs: which one it is, whatever its peers say, where all stood, and that none is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.causes import Cause, first_cause
from finetune_trainer.hang_notice import Promise, collectives_begun
from finetune_trainer.hang_watch import HangWatch, Patience, Process, look_at, stacks_of, verdict_of
from finetune_trainer.kept_logs import keep_logs
from finetune_trainer.rank_files import HangNotice, RankDeath, RankPromise, RunDirectory
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

QUICK = Patience(look=0.05, overdue=1.0, notice=2.0)


def notice(rank: int, collectives: int, step: int | None = 5) -> HangNotice:
    return HangNotice(rank=rank, time=100.0 + rank, step=step, seconds=120.0, collectives=collectives)


def process(rank: int, state: str = "S (sleeping)") -> Process:
    return Process(rank, 1000 + rank, state, "")


def test_a_rank_that_has_begun_fewer_collective_calls_than_its_peers_hangs_although_they_noticed_first() -> None:
    found = verdict_of([notice(0, 41), notice(1, 40), notice(2, 41)], [process(rank) for rank in range(3)])

    assert found.rank == 1
    assert found.message == (
        "no step was finished for 120 s after step 5: rank 1 hangs (it has begun 40 collective calls, another 41); its stacks show where"
    )


def test_a_stopped_process_hangs_whatever_others_have_counted() -> None:
    ranks = [process(0), process(1), process(2, "T (stopped)")]

    found = verdict_of([notice(0, 7)], ranks)

    assert found.rank == 2
    assert "stopped by a signal, state T (stopped)" in found.message


def test_a_rank_that_says_nothing_hangs() -> None:
    found = verdict_of([], [process(0)])

    assert (found.rank, found.message) == (
        0,
        "no rank has spoken before the first step: rank 0 hangs (its process does not answer, state S (sleeping))",
    )


@given(st.integers(1, 8), st.integers(0, 99))
def test_no_rank_of_this_pod_is_named_when_all_wait_in_the_same_call(ranks: int, calls: int) -> None:
    found = verdict_of([notice(rank, calls) for rank in range(ranks)], [process(rank) for rank in range(ranks)])

    assert (found.rank, found.exit_code) == (None, ExitCode.HANG)


def test_a_pod_whose_ranks_all_wait_leaves_it_to_other_pods_to_name_the_cause() -> None:
    ranks = [process(0), process(1)]

    assert verdict_of([notice(0, 7), notice(1, 7)], ranks, pods=2).exit_code is ExitCode.PEER_LOST
    assert verdict_of([notice(0, 7), notice(1, 6)], ranks, pods=2).exit_code is ExitCode.HANG
    assert verdict_of([notice(0, 7)], ranks, pods=2).exit_code is ExitCode.HANG


def test_collective_calls_are_counted_over_all_groups() -> None:
    groups = {"0": {"last_enqueued_collective": "12"}, "1": {"last_enqueued_collective": "-1"}}

    assert collectives_begun({"pg_status": groups}) == 12
    assert collectives_begun({}) == 0


def test_a_promise_is_written_when_it_moves_by_a_second(tmp_path: Path) -> None:
    run, now = RunDirectory(tmp_path), 0.0
    promise = Promise(run, 3, clock=lambda: now)
    promise.renew(120)
    now = 0.5
    promise.renew(120)
    assert run.promises() == (RankPromise(rank=3, speaks_by=120.0),)
    promise.renew(1200)  # a save begins
    assert run.promises() == (RankPromise(rank=3, speaks_by=1200.5),)
    promise.withdraw()
    assert run.promises() == ()


def test_without_the_right_to_read_stacks_the_dump_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = tmp_path / "py-spy"
    refuses.write_text("#!/bin/sh\necho 'Permission Denied: Try running again with elevated permissions' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    text = stacks_of(look_at(0, os.getpid()), 5.0).decode()

    assert text.startswith(f"rank 0, process {os.getpid()}: state R (running)")
    assert "py-spy cannot read its stacks: Permission Denied" in text


def test_a_lone_rank_that_is_stopped_is_found_by_the_promise_that_it_breaks(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as rank:
        run.write_promise(RankPromise(rank=0, speaks_by=time.monotonic()))
        os.kill(rank.pid, signal.SIGSTOP)

        watch = HangWatch(run, lambda: [(0, rank.pid)], Patience(look=0.05, overdue=0.1, notice=0.1)).start()

        assert rank.wait(20) == -signal.SIGKILL
        watch.stop()
    (error,) = run.errors()
    assert (error.rank, error.exit_code) == (0, ExitCode.HANG)
    assert "stopped by a signal" in error.message


def cause_in(run: RunDirectory, statuses: tuple[int, ...]) -> Cause:
    deaths = [RankDeath(rank=rank, time=time.time(), status=status) for rank, status in enumerate(statuses)]
    return first_cause(run.errors(), deaths, terminated=False, host_out_of_memory=False)


@pytest.mark.parametrize(
    ("strategy", "probe", "step", "said"),
    [
        (Strategy.DDP, "STOP:1:3", 2, "stopped by a signal, state T"),
        (Strategy.FSDP, "stuck:1:3", 3, "it has begun"),
    ],
)
def test_the_rank_that_hangs_is_named_and_where_all_stood_is_kept(
    strategy: Strategy, probe: str, step: int, said: str, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(tiny_plan(strategy=strategy, processes=2, micro_batch_size=2, total_steps=50))
    run = RunDirectory(tmp_path / "run" / "run")
    watch = HangWatch(run, lambda: [(state.rank, state.process) for state in run.states()], QUICK).start()

    result = ranks.run(attempt, tmp_path / "run", probes=(probe,), hang_seconds=4.0)

    watch.stop()
    cause = cause_in(run, result.statuses)
    assert (cause.exit_code, cause.rank, cause.step) == (ExitCode.HANG, 1, step), result.log()
    assert said in cause.message
    peer, hanging = result.statuses
    assert hanging == (-signal.SIGKILL if "STOP" in probe else ExitCode.HANG)
    assert peer in (ExitCode.HANG, ExitCode.PEER_LOST)  # it may lose the other one before it has ended by itself
    assert keep_logs(attempt, run, 0, cause) is not None
    kept = Path(attempt.checkpoint_uri.removeprefix("file://")) / "logs" / "1"
    assert "rank 1, process" in (kept / "stacks-00001.txt").read_text()
    place = "wait_for_what_never_comes" if "stuck" in probe else "on_step_end"
    assert place in (kept / "stacks-00001.txt").read_text()
    waiting = json.loads((kept / "flight-record-00000.json").read_text())
    assert any(entry["profiling_name"].startswith("gloo:") for entry in waiting["entries"])
