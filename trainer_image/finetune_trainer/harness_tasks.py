"""The tasks of evaluation.harness, as far as their files tell.

The inspection looks at them, so that no GPU trains for a task or a measure that is not there. It reads YAML alone; lm-evaluation-harness, which needs
torch, reads them again when it runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from finetune_operator.api.evaluation import Evaluation
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import open_storage

_SUFFIXES: Final = (".yaml", ".yml")
_LARGEST_BYTES: Final = 1024 * 1024
Task = Mapping[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads `!function module.name` as something that is no name."""


_Loader.add_constructor("!function", lambda loader, node: None)


def check_tasks(evaluation: Evaluation) -> None:
    """Raise where the folder lacks a task of `harness.tasks`, or a task a measure that `require.tasks` names.

    Raises:
        TrainerFailure: With what can be named instead.
    """
    harness, required = evaluation.harness, evaluation.require.tasks if evaluation.require else ()
    if harness is None:
        return
    storage = open_storage(harness.uri)
    known: dict[str, Task] = {}
    for file in storage.list():
        if file.name.endswith(_SUFFIXES) and file.size <= _LARGEST_BYTES:
            known |= tasks_in(storage.read(file.name))
    if missing := next((task for task in harness.tasks if task not in known), None):
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"evaluation.harness.tasks: {harness.uri} has no task {missing} (it has: {', '.join(sorted(known)) or 'none'})",
        )
    for each in required:
        task = next(task for task in harness.tasks if each.name.startswith(f"{task}."))
        measures = measures_of(known[task])
        if measures is not None and each.name.removeprefix(f"{task}.") not in measures:
            names = ", ".join(f"{task}.{measure}" for measure in measures)
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"evaluation.require.tasks: {each.name} is no measure of task {task}; name one of its own ({names}), or remove it",
            )


def tasks_in(content: bytes) -> dict[str, Task]:
    """Return the tasks, groups and tags of one file by name; none where it is no file of tasks."""
    try:
        document = yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader that knows one more tag
    except yaml.YAMLError:
        return {}  # the harness says more of it, if it is one of its files at all
    if not isinstance(document, dict):
        return {}
    found: dict[str, Task] = {}
    for key in ("group", "tag"):
        names = document.get(key)
        # What a group measures is that of its tasks.
        found |= {name: {} for name in (names if isinstance(names, list) else [names]) if isinstance(name, str)}
    if isinstance(document.get("task"), str):
        found[document["task"]] = document
    return found


def measures_of(task: Task) -> tuple[str, ...] | None:
    """Return the names of a task's measures, with those of its filters; None where its file alone does not tell."""
    listed = task.get("metric_list")
    if "include" in task or not isinstance(listed, list):
        return None
    metrics, filters = _texts(listed, "metric"), _texts(task.get("filter_list") or [{"name": "none"}], "name")
    if metrics is None or filters is None:
        return None
    return tuple(metric if name == "none" else f"{metric}.{name}" for metric in metrics for name in filters)


def _texts(entries: list[Any], key: str) -> list[str] | None:
    """Return what all entries have under `key`; None where one of them has no text there."""
    found = [each.get(key) for each in entries if isinstance(each, dict)]
    texts = [each for each in found if isinstance(each, str)]
    return texts if len(texts) == len(entries) else None
