"""The way of a pod that evaluates: launched as Kubernetes launches it, killed in the middle, launched again, published."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import RUN_EVENT, EvaluatedEvent, EvaluatingEvent, RunEvent, StepEvent
from finetune_trainer.testing import arithmetic_rows, tiny_plan, write_rows
from finetune_trainer.testing_launch import Launched, launch
from finetune_trainer.testing_ranks import RankServer


def events(folder: Path) -> list[RunEvent]:
    return [RUN_EVENT.validate_json(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def evaluating(launched: Launched) -> int:
    """The process that evaluates: the only child of a launcher whose ranks are gone."""
    launched.wait_for_event('"event":"evaluating"')
    main = launched.process.pid
    (child,) = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return int(child)


def test_an_evaluation_that_is_killed_comes_again_without_a_step_and_gates_publication(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    kept = write_rows(tmp_path / "evaluation.jsonl", arithmetic_rows(40, seed=7))
    path = tmp_path / "plan.json"

    def write(attempt: AttemptFile) -> None:
        path.write_text(attempt.model_dump_json(by_alias=True))

    attempt: AttemptFile = make_attempt(
        tiny_plan(total_steps=3).model_copy(update={"evaluation_batch_size": 4}),
        dataset={"evaluation": {"uri": f"file://{kept}"}},
        # Answers that are long enough for the kill to come before the last of them.
        evaluation={"metrics": ["perplexity", "exact_match"], "maxNewTokens": 400, "require": {"perplexity": "<1"}},
    )
    write(attempt)

    first = launch(tmp_path, path)
    os.kill(evaluating(first), signal.SIGKILL)
    code, message = first.finish()

    assert (code, message["reason"], message["step"]) == (ExitCode.KILLED, "RankKilled", 3)
    assert (
        "the evaluation after the training was killed by SIGKILL; the trained model is in the bucket"
        in message["message"]
    )
    assert not list(tmp_path.glob("out/checkpoints/*/evaluation.json"))
    (log,) = Path(message["logUri"].removeprefix("file://")).glob("evaluation.log")
    assert log.stat().st_size > 0
    (tmp_path / "events.jsonl").unlink()

    # The operator's next attempt knows what step the first one reached.
    again = attempt.model_copy(update={"attempt": 2, "reached_step": message["step"]})
    short = again.spec.evaluation.model_copy(update={"max_new_tokens": 4, "max_rows": 8})
    write(again.model_copy(update={"spec": again.spec.model_copy(update={"evaluation": short})}))
    code, message = launch(tmp_path, path).finish()

    assert (code, message["reason"], message["step"]) == (ExitCode.OK, "Succeeded", 3)
    told = events(tmp_path)
    assert not [event for event in told if isinstance(event, StepEvent)], "no step is made again"
    assert not (tmp_path / "work" / "attempt-2" / "logs" / "rank-0.log").exists(), "no rank is started for it"
    rows = [(event.rows, event.total_rows) for event in told if isinstance(event, EvaluatingEvent)]
    # Loss and answers to 8 rows, by both models.
    assert (rows[0], rows[-1]) == ((0, 32), (32, 32))
    (evaluated,) = (event.evaluated for event in told if isinstance(event, EvaluatedEvent))
    assert message["evaluation"]["figures"][0]["tuned"] == evaluated.figures[0].tuned
    assert message["time"]["lost"]["evaluation"] > 0

    refused = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(tmp_path))
    assert (refused["code"], refused["termination"]["reason"]) == (ExitCode.REQUIREMENT_NOT_MET, "RequirementNotMet")
    assert not (tmp_path / "out" / "manifest.json").exists()
    reached = short.model_copy(update={"require": None})
    write(again.model_copy(update={"spec": again.spec.model_copy(update={"evaluation": reached})}))
    assert ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(tmp_path))["code"] == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
