"""Weights & Biases: told online with a key, else written offline for `wandb sync`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.tracking import Wandb
from finetune_trainer.trackers.tracker import Record, Told, settings_of

INIT_SECONDS: Final = 60


class WandbRun:
    """One run for all attempts: its id is the job's uid."""

    name = "wandb"

    def __init__(self, attempt: AttemptFile, settings: Wandb, folder: Path) -> None:
        self._attempt, self._settings = attempt, settings
        self._files = folder
        self._is_online = bool(os.environ.get("WANDB_API_KEY"))
        self.folder = None if self._is_online else folder
        self._run: Any = None

    def open(self, told: Told) -> Told:
        """Begin the run, or go on with it."""
        import wandb

        self._files.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            name=self._attempt.name,
            id=self._attempt.uid.replace("-", "")[:16],
            resume="allow" if self._is_online else None,
            mode="online" if self._is_online else "offline",
            dir=str(self._files),
            config=settings_of(self._attempt),
            # Neither the container's output, which may quote rows, nor the user's code are the tracker's business.
            settings=wandb.Settings(
                console="off", disable_git=True, disable_code=True, silent=True, init_timeout=INIT_SECONDS
            ),
        )
        return told

    def tell(self, records: tuple[Record, ...]) -> None:
        """Hand numbers to W&B's own process."""
        for record in records:
            self._run.log(record.named, step=record.step)

    def flush(self) -> bool:
        """Return whether it is with W&B's server: W&B's process writes its file when it likes, and all of it only at the end."""
        return self._is_online

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """End the run; W&B's process writes or sends the rest of it."""
        self._run.finish(exit_code=0 if ended == "finished" else 1)
