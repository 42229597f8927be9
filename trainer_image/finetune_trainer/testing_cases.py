"""What tests call in forks of `RankServer` beside trainings: a case's publication or evaluation, little memory, a script, the parent of ranks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import RUN_EVENTS_VARIABLE
from finetune_trainer.rank_files import RunDirectory


def inspect_case(folder: Path) -> dict[str, Any]:
    """Inspect the request in `folder`, and return the exit code and what was said at the end; for `RankServer.call`."""
    from finetune_trainer.inspect.command import run

    termination = folder / "termination.json"
    os.environ["FINETUNE_TERMINATION_LOG"] = str(termination)
    termination.touch()
    code = run(["--job", str(folder / "request.json"), "--output", str(folder / "report.json")])
    return {"code": code, "termination": json.loads(termination.read_text())}


def publish_case(folder: Path) -> dict[str, Any]:
    """Publish the model of a case that has run in `folder`; for `RankServer.call`."""
    from finetune_trainer.publish.command import publish

    termination = folder / "termination.json"
    os.environ.update(
        {
            "FINETUNE_WORK_DIRECTORY": str(folder / "publish"),
            "FINETUNE_TERMINATION_LOG": str(termination),
            RUN_EVENTS_VARIABLE: str(folder / "events.jsonl"),
        }
    )
    code = publish(folder / "plan.json")
    return {"code": code, "termination": json.loads(termination.read_text())}


def evaluate_case(folder: Path) -> int:
    """Evaluate the model of a case that has run in `folder`; for `RankServer.call`."""
    from finetune_trainer.after_training.command import evaluate

    os.environ.update(
        {
            "FINETUNE_WORK_DIRECTORY": str(folder / "work"),
            "FINETUNE_RUN_DIRECTORY": str(folder / "run"),
            RUN_EVENTS_VARIABLE: str(folder / "events.jsonl"),
        }
    )
    # Its output is the server's, which speaks with the test.
    log = os.open(folder / "evaluation.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.close(log)
    return evaluate(folder / "plan.json")


def answers_case(lengths: list[int], room: int) -> dict[str, Any]:
    """Ask a model that repeats a prompt's last token, on a GPU with room for so many tokens of prompts at once; for `RankServer.call`."""
    import torch

    from finetune_trainer.after_training.asking import answers_of
    from finetune_trainer.after_training.rows import Question
    from finetune_trainer.failures import TrainerFailure

    class Small(torch.nn.Linear):
        def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            if input_ids.numel() > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            asked.append(len(input_ids))
            return torch.cat((input_ids, input_ids[:, -1:]), dim=1)

    asked: list[int] = []
    questions = [Question((0,) * (length - 1) + (length,), "", "") for length in lengths]
    try:
        answers = answers_of(
            Small(1, 1),
            questions,
            batch=len(questions),
            new_tokens=256,
            ends=(),
            padding=0,
            decode=str,
            count=lambda rows: None,
        )
    except TrainerFailure as failure:
        return {"code": failure.exit_code, "said": str(failure)}
    return {"answers": answers, "batches": asked}


def script_case(script: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a foreign script as its main module; for `RankServer.call`."""
    import runpy

    os.environ.update(environment)
    runpy.run_path(str(script), run_name="__main__")
    return {}


def agent_case(folder: Path, attempt: dict[str, Any], index: int, join_seconds: int) -> dict[str, Any]:
    """Run the parent of a pod's ranks when the other pods never come; for `RankServer.call`."""
    from finetune_trainer.agent import run_agent
    from finetune_trainer.launch import torchrun_arguments

    run = RunDirectory(folder)
    options = torchrun_arguments(AttemptFile.model_validate(attempt), index, run.logs, join_seconds=join_seconds)
    return {"status": run_agent([*options, "never-started"], run)}
