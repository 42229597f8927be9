"""Comet, by the callback that transformers has from it: told online with a key, else an archive for `comet upload`."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.tracking import Comet
from finetune_trainer.trackers.tracker import Record, Told, settings_of


class CometExperiment:
    """One experiment for all attempts: its key is the job's uid."""

    name = "comet"

    def __init__(self, attempt: AttemptFile, settings: Comet, folder: Path) -> None:
        self._attempt, self._settings = attempt, settings
        self._files = folder
        self._is_online = bool(os.environ.get("COMET_API_KEY"))
        self.folder = None if self._is_online else folder
        self._callback: Any = None
        self._arguments: Any = None

    def open(self, told: Told) -> Told:
        """Begin the experiment, or go on with it."""
        self._files.mkdir(parents=True, exist_ok=True)
        os.environ.update(
            {
                "COMET_PROJECT_NAME": self._settings.project,
                **({"COMET_WORKSPACE": self._settings.workspace} if self._settings.workspace else {}),
                "COMET_EXPERIMENT_KEY": self._attempt.uid.replace("-", ""),
                "COMET_START_ONLINE": "true" if self._is_online else "false",
                "COMET_OFFLINE_DIRECTORY": str(self._files),
                "COMET_MODE": "get_or_create" if self._is_online else "create",
                "COMET_LOGGING_CONSOLE": "error",
            }
        )
        from transformers.integrations import CometCallback

        self._callback = CometCallback()
        self._arguments = SimpleNamespace(run_name=self._attempt.name, to_dict=lambda: settings_of(self._attempt))
        self._callback.on_train_begin(self._arguments, _state(0), None, model=None)
        return told

    def tell(self, records: tuple[Record, ...]) -> None:
        """Hand numbers to Comet's own thread."""
        for record in records:
            prefix = (
                "eval_" if record.kind == "eval" else ""
            )  # transformers' names, which the callback makes eval/… and train/… of
            logs = {f"{prefix}{name}": value for name, value in record.values.items()}
            self._callback.on_log(self._arguments, _state(record.step), None, logs=logs)

    def flush(self) -> bool:
        """Return whether it is with Comet's server: an archive is written at the end alone."""
        return self._is_online

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """End the experiment, by which an archive is written."""
        self._callback.on_train_end(self._arguments, _state(0), None)
        self._callback._experiment.end()


def _state(step: int) -> Any:
    """Return what the callback reads of transformers' state; rank 0 alone has trackers."""
    return SimpleNamespace(is_world_process_zero=True, is_hyper_param_search=False, global_step=step, epoch=None)
