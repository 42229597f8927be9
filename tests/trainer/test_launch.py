"""The pod's process: waiting for the first pod, and real torchrun runs that end badly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.launch import killed_for_memory, torchrun_arguments, wait_for_host
from finetune_trainer.rank_files import RunDirectory
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_launch import launch
from finetune_trainer.testing_ranks import RankServer


class Names:
    """A name service that knows the host after some questions, and counts the seconds that were waited."""

    def __init__(self, known_after: int) -> None:
        self.left = known_after
        self.waited = 0.0

    def resolve(self, host: str) -> None:
        self.left -= 1
        if self.left >= 0:
            raise socket.gaierror("unknown")

    def pause(self, seconds: float) -> None:
        self.waited += seconds


def test_a_host_that_appears_late_is_waited_for() -> None:
    names = Names(known_after=5)

    wait_for_host("job-0", 60, stopped=lambda: False, resolve=names.resolve, pause=names.pause)

    assert 0 < names.waited < 10


def test_a_host_that_never_appears_is_a_lost_peer_in_the_end() -> None:
    names = Names(known_after=10**6)

    with pytest.raises(TrainerFailure, match="job-0 was not known after 60 s") as failed:
        wait_for_host("job-0", 60, stopped=lambda: False, resolve=names.resolve, pause=names.pause)

    assert failed.value.exit_code is ExitCode.PEER_LOST
    assert 60 <= names.waited < 65


def test_a_stop_ends_the_wait() -> None:
    names = Names(known_after=10**6)

    with pytest.raises(TrainerFailure) as failed:
        wait_for_host("job-0", 60, stopped=lambda: names.waited > 3, resolve=names.resolve, pause=names.pause)

    assert failed.value.exit_code is ExitCode.TERMINATED


def test_processes_killed_for_memory_are_counted_in_both_versions_of_control_groups(tmp_path: Path) -> None:
    unified, separate = tmp_path / "memory.events", tmp_path / "memory.oom_control"
    assert killed_for_memory([unified, separate]) == 0
    separate.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert killed_for_memory([unified, separate]) == 2
    unified.write_text("low 0\nhigh 0\nmax 8\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert killed_for_memory([unified]) == 1


def test_torchrun_meets_at_the_first_pod_and_never_restarts_in_place(make_attempt: Any) -> None:
    attempt = make_attempt(tiny_plan(strategy=Strategy.DDP, processes=4, pods=2)).model_copy(
        update={"rendezvous_host": "tune-1-0.tune-1", "rendezvous_port": 29500}
    )

    arguments = torchrun_arguments(attempt, 1, Path("/logs"))

    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=2", "--max-restarts=0"} <= set(arguments)
    assert {"--master-addr=tune-1-0.tune-1", "--master-port=29500"} <= set(arguments)


def two_pods(make_attempt: Any) -> AttemptFile:
    """An attempt of two pods whose first is at a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    attempt: AttemptFile = make_attempt(tiny_plan(strategy=Strategy.DDP, processes=4, pods=2))
    return attempt.model_copy(update={"rendezvous_host": "127.0.0.1", "rendezvous_port": port})


@pytest.mark.parametrize("index", [0, 1])
def test_pods_that_never_come_are_lost_peers_that_were_waited_for(
    index: int, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = two_pods(make_attempt)

    answer = ranks.call(
        "finetune_trainer.testing_cases:agent_case",
        folder=str(tmp_path),
        attempt=attempt.model_dump(mode="json", by_alias=True),
        index=index,
        join_seconds=1,
    )

    (error,) = RunDirectory(tmp_path).errors()
    assert answer == {"status": 1}
    assert (error.rank, error.exit_code) == (2 * index, ExitCode.PEER_LOST)
    assert re.match(r"waited \d\.\d minutes for the other pods at 127\.0\.0\.1:", error.message)
    assert "Pending" in error.message


def test_sigterm_ends_the_wait_for_other_pods_at_once(make_attempt: Any, tmp_path: Path) -> None:
    attempt = two_pods(make_attempt)
    path = tmp_path / "plan.json"
    path.write_text(attempt.model_dump_json(by_alias=True))
    launched = launch(tmp_path, path)
    launched.wait_for_port(attempt.rendezvous_port)

    started = time.monotonic()
    launched.process.terminate()

    code, message = launched.finish()
    assert (code, message["reason"]) == (ExitCode.TERMINATED, "Terminated")
    assert time.monotonic() - started < 20  # torchrun kills after 30


@pytest.mark.parametrize("module", ["launch", "causes", "kept_logs", "report", "metrics", "encoding", "__main__"])
def test_the_pods_process_imports_no_torch(module: str) -> None:
    code = f"import finetune_trainer.{module}, sys; sys.exit(bool({{'torch', 'transformers'}} & sys.modules.keys()))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_that_is_not_there_is_told_in_the_termination_log(tmp_path: Path) -> None:
    code, message = launch(tmp_path, tmp_path / "none.json").finish()

    assert (code, message["reason"]) == (ExitCode.BAD_SPEC, "InvalidSpec")
    assert "none.json" in message["message"]


@pytest.mark.parametrize("strategy", [Strategy.FSDP, Strategy.SINGLE])
def test_a_killed_rank_is_named_as_the_cause_by_the_pod(strategy: Strategy, make_attempt: Any, tmp_path: Path) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plan = tiny_plan(strategy=strategy, processes=processes, micro_batch_size=2, total_steps=3000)
    attempt = make_attempt(plan).model_copy(update={"rendezvous_port": port})
    path = tmp_path / "plan.json"
    path.write_text(attempt.model_dump_json(by_alias=True))
    launched = launch(tmp_path, path)
    launched.wait_for_step(5)
    victim = processes - 1
    state = json.loads((tmp_path / "work" / "attempt-1" / f"rank-{victim}.state.json").read_text())

    os.kill(state["process"], signal.SIGKILL)

    code, message = launched.finish()
    assert (code, message["reason"], message["rank"]) == (ExitCode.KILLED, "RankKilled", victim)
    assert message["step"] >= 1
    assert message["time"]["lost"]["import"] > 0 < message["time"]["firstStepTime"] <= time.time()
    logs = Path(message["logUri"].removeprefix("file://"))
    assert sorted(path.name for path in logs.iterdir()) == [
        "cause-00000.json",
        *(f"rank-{rank:05d}.log" for rank in range(processes)),
    ]
    assert len((logs / "rank-00000.log").read_text().splitlines()) <= 200


def test_a_launcher_that_is_killed_takes_its_rank_along_and_the_next_attempt_goes_on(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(tiny_plan(total_steps=3000), checkpoint={"every": "10steps"})
    path = tmp_path / "plan.json"
    path.write_text(attempt.model_dump_json(by_alias=True))
    launched = launch(tmp_path, path)
    launched.wait_for_step(30)  # at 20 at the latest a checkpoint is committed
    rank = json.loads((tmp_path / "work" / "attempt-1" / "rank-0.state.json").read_text())["process"]

    launched.process.kill()

    launched.process.wait(60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{rank}").exists() and "State:\tZ" not in Path(f"/proc/{rank}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    saved = sorted((tmp_path / "out").glob("checkpoints/*/step-*/*/manifest.json"))
    step = int(saved[-1].parts[-3][5:])
    shorter = attempt.plan.model_copy(update={"total_steps": step + 2})
    again = ranks.run(attempt.model_copy(update={"attempt": 2, "plan": shorter}), tmp_path / "again")
    assert again.statuses == (0,), again.log()
    assert list(again.losses) == [step + 1, step + 2]


def test_sigterm_to_the_pod_saves_and_exits_with_49(make_attempt: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(make_attempt(tiny_plan(total_steps=3000)).model_dump_json(by_alias=True))
    launched = launch(tmp_path, path)
    launched.wait_for_step(5)

    launched.process.terminate()

    code, message = launched.finish()
    assert (code, message["reason"]) == (ExitCode.TERMINATED, "Terminated")
    assert message["checkpointStep"] == message["step"]
