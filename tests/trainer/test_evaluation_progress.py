"""What is told while the model is evaluated after the training, and how that evaluation ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import Metric, TrainerStatus
from finetune_operator.api.reasons import Reason
from finetune_operator.api.run_events import RUN_EVENT, RUN_EVENTS_VARIABLE, EvaluatingEvent
from finetune_operator.api.time_spent import TimeSpent
from finetune_trainer.after_training.progress import EvaluationProgress
from finetune_trainer.causes import cause_of_evaluation
from finetune_trainer.events import EventLog
from finetune_trainer.rank_files import RankError, RankState, RunDirectory

Body = dict[str, Any]


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def measured(
    attempt: AttemptFile, folder: Path, *, batches: int = 4, seconds: float = 30.0
) -> tuple[list[Body], list[EvaluatingEvent], EvaluationProgress]:
    """Twenty rows of each model in batches of ten, which take `seconds` each: what was sent, what was written."""
    bodies: list[Body] = []
    clock, path = Seconds(), folder / "events.jsonl"
    events = EventLog({RUN_EVENTS_VARIABLE: str(path)})
    run = RunDirectory(folder / "run")

    def send(body: bytes) -> None:
        bodies.append(json.loads(body)["trainerStatus"])

    with EvaluationProgress(attempt, run, step=8, started=90.0, send=send, events=events, clock=clock) as progress:
        progress.expect_of_both(20)
        for _ in range(batches):
            clock.now += seconds
            progress.count(10)
    lines = [RUN_EVENT.validate_json(line) for line in path.read_text().splitlines()]
    return bodies, [line for line in lines if isinstance(line, EvaluatingEvent)], progress


def numbers(body: Body) -> dict[str, str]:
    return {metric["name"]: metric["value"] for metric in body["metrics"]}


def test_rows_are_told_to_operator_events_and_metrics(attempt: AttemptFile, tmp_path: Path) -> None:
    bodies, events, progress = measured(attempt, tmp_path)
    assert [(event.rows, event.total_rows) for event in events][:3] == [(0, 40), (10, 40), (20, 40)]
    last = bodies[-1]
    assert (numbers(last)["evaluated_rows"], numbers(last)["evaluation_rows"]) == ("40", "40")
    assert (numbers(last)["step"], numbers(last)["attempt"], last["progressPercentage"]) == ("8", "1", 100)
    assert (progress.metrics.value("evaluated_rows"), progress.metrics.value("evaluation_rows")) == (40, 40)


def test_the_time_that_is_left_is_that_of_the_rows_so_far(attempt: AttemptFile, tmp_path: Path) -> None:
    bodies, _, _ = measured(attempt, tmp_path, batches=3)
    assert bodies[-1]["estimatedRemainingSeconds"] == 30


def test_events_come_at_most_once_a_second(attempt: AttemptFile, tmp_path: Path) -> None:
    _, events, _ = measured(attempt, tmp_path, seconds=0.4)
    assert [event.rows for event in events] == [0, 30, 40]


def test_what_the_training_told_last_stays_but_for_its_slow_rank(attempt: AttemptFile, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    told = {"attempt": "1", "step": "8", "eval_loss": "1.5", "slow_rank": "3", "lost_seconds_evaluation": "2.0"}
    metrics = tuple(Metric(name=name, value=value) for name, value in told.items())
    run.write_last_report(TrainerStatus(progress_percentage=100, metrics=metrics))
    run.write_state(
        RankState(rank=0, process=1, step=8, time=TimeSpent(lost={"evaluation": 2.0, "load": 5.0}, productive=50.0))
    )

    bodies, _, progress = measured(attempt, tmp_path)

    found = numbers(bodies[-1])
    assert "slow_rank" not in found
    # From second 90 to 220, after the two in which the training measured its own loss.
    assert {name: found[name] for name in ("eval_loss", "lost_seconds_evaluation", "lost_seconds_load")} == {
        "eval_loss": "1.5",
        "lost_seconds_evaluation": "132.0",
        "lost_seconds_load": "5.0",
    }
    (state,) = run.states()
    assert state.time == TimeSpent(lost={"evaluation": 132.0, "load": 5.0}, productive=50.0)
    lost = progress.metrics.registry.get_sample_value(
        "finetune_badput_seconds_total",
        {"namespace": "default", "job": "tiny", "attempt": "1", "rank": "0", "cause": "evaluation"},
    )
    assert lost == 130.0


def error(code: ExitCode) -> RankError:
    return RankError(rank=0, time=1.0, exit_code=code, reason=meaning_of(code).reason, message="why", step=8)


@pytest.mark.parametrize(
    ("errors", "status", "more", "code", "reason", "said"),
    [
        ([], 0, {}, ExitCode.OK, Reason.SUCCEEDED, "evaluated"),
        ([error(ExitCode.BAD_DATA)], 41, {}, ExitCode.BAD_DATA, Reason.INVALID_DATA, "why"),
        ([], -signal.SIGKILL, {}, ExitCode.KILLED, Reason.RANK_KILLED, "next attempt evaluates it"),
        (
            [],
            -signal.SIGKILL,
            {"host_out_of_memory": True},
            ExitCode.KILLED,
            Reason.HOST_OUT_OF_MEMORY,
            "memory was used up",
        ),
        ([], -signal.SIGTERM, {"terminated": True}, ExitCode.TERMINATED, Reason.TERMINATED, "before the model was"),
        ([], -signal.SIGSEGV, {}, ExitCode.BUG, Reason.TRAINER_ERROR, "crashed with SIGSEGV"),
        ([], 1, {}, ExitCode.BUG, Reason.TRAINER_ERROR, "exited with 1 and no word"),
    ],
)
def test_an_evaluation_that_ends_badly_is_named_as_what_it_is(
    errors: list[RankError], status: int, more: dict[str, bool], code: ExitCode, reason: Reason, said: str
) -> None:
    flags = {"terminated": False, "host_out_of_memory": False, **more}
    cause = cause_of_evaluation(errors, status, **flags)
    assert (cause.exit_code, cause.reason, cause.rank) == (code, reason, None)
    assert said in cause.message
