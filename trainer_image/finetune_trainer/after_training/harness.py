"""Tasks of lm-evaluation-harness from a folder of the user's: they are run as the harness runs them, on the model that is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_operator.api.evaluators import Harness
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import open_storage


def fetch_tasks(harness: Harness, target: Path) -> Path:
    """Return a local copy of the folder."""
    storage = open_storage(harness.uri)
    for file in storage.list():
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.download(file.name, path)
    return target


def harness_figures(
    harness: Harness,
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    batch: int,
    rows: int,
    expect: Callable[[int], None] = lambda rows: None,
    count: Callable[[int], None] = lambda rows: None,
) -> dict[str, float]:
    """Return every number of the tasks, as `<task>.<metric>`, and `<task>.<metric>.<filter>` where a task filters answers.

    Args:
        harness: Which tasks.
        folder: Where they are.
        model: The one that answers.
        tokenizer: Its tokenizer.
        batch: Rows together.
        rows: Of each task at most.
        expect: Hears how many requests the tasks make, before they are answered.
        count: Hears of every batch's requests.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class Counting(HFLM):  # type: ignore[misc] # lm-eval has no types
        """Tells of requests and of batches: the harness itself shows a bar on a terminal alone."""

        def loglikelihood(self, requests: Any, *arguments: Any, **named: Any) -> Any:
            expect(len(requests))
            return super().loglikelihood(requests, *arguments, **named)

        def loglikelihood_rolling(self, requests: Any, *arguments: Any, **named: Any) -> Any:
            expect(len(requests))
            return super().loglikelihood_rolling(requests, *arguments, **named)

        def generate_until(self, requests: Any, *arguments: Any, **named: Any) -> Any:
            expect(len(requests))
            return super().generate_until(requests, *arguments, **named)

        def _model_call(self, inps: Any, *arguments: Any, **named: Any) -> Any:
            answered = super()._model_call(inps, *arguments, **named)
            count(len(inps))
            return answered

        def _model_generate(self, context: Any, *arguments: Any, **named: Any) -> Any:
            answered = super()._model_generate(context, *arguments, **named)
            count(len(context))
            return answered

    with contextlib.chdir(folder):  # paths in task files
        tasks = TaskManager(include_path=str(folder), include_defaults=False)
        if missing := sorted(set(harness.tasks) - set(tasks.all_tasks)):
            known = ", ".join(sorted(tasks.all_tasks)) or "none"
            raise TrainerFailure(
                ExitCode.BAD_SPEC, f"evaluation.harness.tasks: {harness.uri} has no task {missing[0]} (it has: {known})"
            )
        results = simple_evaluate(
            Counting(pretrained=model, tokenizer=tokenizer, batch_size=batch),
            tasks=list(harness.tasks),
            task_manager=tasks,
            num_fewshot=harness.few_shot,
            limit=rows,
            bootstrap_iters=0,
            log_samples=False,
        )["results"]
    return {
        ".".join((task, *(part for part in key.split(",") if part != "none"))): float(value)
        for task in harness.tasks
        for key, value in results[task].items()
        if "," in key and "_stderr," not in key and isinstance(value, float)
    }
