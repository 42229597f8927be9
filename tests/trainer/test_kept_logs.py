"""What is kept of a rank's log, and what is read out of it."""

from __future__ import annotations

import signal
from pathlib import Path

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.kept_logs import aborted_for_a_peer, rank_logs, tail
from finetune_trainer.rank_files import RankDeath, RunDirectory


def run_with_logs(folder: Path, *texts: str) -> RunDirectory:
    run = RunDirectory(folder)
    for local, text in enumerate(texts):
        path = run.logs / "none_abc" / "attempt_0" / str(local) / "stdout.log"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return run


def test_logs_have_the_numbers_of_ranks_over_all_pods(tmp_path: Path) -> None:
    run = run_with_logs(tmp_path, "a", "b")

    assert [rank for rank, _ in rank_logs(run.logs, 4)] == [4, 5]


def test_the_tail_is_the_last_two_hundred_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))

    lines = tail(path).decode().splitlines()

    assert (len(lines), lines[0], lines[-1]) == (200, "line 800", "line 999")


def test_a_rank_that_nccl_aborted_lost_a_peer(tmp_path: Path) -> None:
    run = run_with_logs(tmp_path, "[Rank 2] Watchdog caught collective operation timeout: ...", "Fatal Python error")
    deaths = [RankDeath(rank=rank, time=1.0, status=-signal.SIGABRT) for rank in (2, 3)]

    found = aborted_for_a_peer(deaths, run, index=1, ranks=2)

    assert [(error.rank, error.exit_code) for error in found] == [(2, ExitCode.PEER_LOST)]
