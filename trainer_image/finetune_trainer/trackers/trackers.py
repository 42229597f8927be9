"""All trackers of one attempt, fed by its run events; their files go to the bucket with every checkpoint and at the end."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from finetune_operator.api.model import ReadModel
from finetune_operator.api.plan import AttemptFile, tracking_uri
from finetune_operator.api.run_events import CheckpointEvent
from finetune_operator.api.tracking import Tracking
from finetune_trainer.storage import ObjectStorage, open_writable
from finetune_trainer.trackers.comet import CometExperiment
from finetune_trainer.trackers.feed import Feed, wait_for_all
from finetune_trainer.trackers.mlflow import MlflowRun
from finetune_trainer.trackers.tensorboard import TensorBoard
from finetune_trainer.trackers.tracker import KINDS, Kind, Told, Tracker, record_of
from finetune_trainer.trackers.wandb import WandbRun

TOLD_FILE: Final = "told.json"
FINISH_SECONDS: Final = 60.0
"""How long a finished training waits for its trackers."""
FAILED_SECONDS: Final = 30.0
"""The same of one that failed or was stopped, whose grace period runs."""
LIBRARIES: Final = ("wandb", "comet_ml", "mlflow")


def hide_unused_libraries(tracking: Tracking) -> None:
    """Keep transformers and TRL from importing trackers that the job does not use: 3.4 s and 31 MiB in every rank (measured).

    To be called before the first import of transformers.
    """
    used = {"comet_ml": tracking.comet is not None}
    if tracking.comet is not None:
        # Comet would wrap functions of torch; what it is told comes from us alone.
        os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
    for name in LIBRARIES:
        if not used.get(name) and name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment] # what `import` documents as "not to be had"


def show_libraries() -> None:
    """Undo it: from here on whoever asks may have them."""
    for name in LIBRARIES:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]


class Trackers:
    """The trackers of rank 0."""

    def __init__(
        self,
        attempt: AttemptFile,
        folder: Path,
        step: int,
        *,
        on_change: Callable[[frozenset[str]], None] = lambda failing: None,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ) -> None:
        self._attempt, self._folder = attempt, folder
        self._on_change, self._say = on_change, say
        self._said: set[tuple[str, str]] = set()
        self._failing: frozenset[str] = frozenset()
        self._sent: dict[str, str] = {}
        self._is_closed = False
        show_libraries()
        self._feeds = [
            Feed(
                tracker,
                functools.partial(self._read_told, tracker),
                upload=self._upload,
                on_problem=self._on_problem,
                on_well=self._on_well,
            )
            for tracker in _trackers(attempt, folder, step)
        ]

    def hear(self, event: ReadModel) -> None:
        """Tell all trackers what a run event says; a committed checkpoint is the time to upload."""
        record = record_of(event)
        for feed in self._feeds:
            if record is not None:
                feed.tell(record)
            elif isinstance(event, CheckpointEvent) and event.verified:
                feed.flush()

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """End all of them and upload what they leave, for a limited time."""
        if self._is_closed:
            return
        self._is_closed = True
        seconds = FINISH_SECONDS if ended == "finished" else FAILED_SECONDS
        deadline = time.monotonic() + seconds
        for feed in self._feeds:
            feed.end(ended)
        wait_for_all(self._feeds, lambda: deadline - time.monotonic())

    def _storage(self, name: str) -> ObjectStorage:
        return open_writable(tracking_uri(self._attempt.spec, self._attempt.name, self._attempt.uid)).child(name)

    def _read_told(self, tracker: Tracker) -> Told:
        """Return what earlier attempts have told this tracker, as far as the bucket and the operator know."""
        storage = self._storage(tracker.name)
        told: dict[Kind, int] = dict(json.loads(storage.read(TOLD_FILE))) if storage.exists(TOLD_FILE) else {}
        if tracker.folder is None:  # it was told at once, also what came after the last checkpoint
            told["train"] = max(told.get("train", 0), self._attempt.reached_step)
        return told

    def _upload(self, tracker: Tracker, told: Told) -> None:
        storage = self._storage(tracker.name)
        files = sorted(tracker.folder.rglob("*")) if tracker.folder else []
        for path in files:
            if path.is_symlink() or not path.is_file():
                continue
            name = str(path.relative_to(self._folder / tracker.name))
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if self._sent.get(f"{tracker.name}/{name}") != found:
                storage.upload(path, name)
                self._sent[f"{tracker.name}/{name}"] = found
        storage.put_small(TOLD_FILE, json.dumps({kind: told.get(kind, 0) for kind in KINDS}).encode())

    def _on_problem(self, name: str, problem: str) -> None:
        if (name, problem) not in self._said:
            self._said.add((name, problem))
            self._say(f"tracker {name} does not work, the training goes on without it: {problem}")
        self._note(self._failing | {name})

    def _on_well(self, name: str) -> None:
        self._note(self._failing - {name})

    def _note(self, failing: frozenset[str]) -> None:
        if failing != self._failing:
            self._failing = failing
            self._on_change(failing)


def _trackers(attempt: AttemptFile, folder: Path, step: int) -> list[Tracker]:
    tracking = attempt.spec.tracking
    found: list[Tracker] = [TensorBoard(attempt, folder / "tensorboard", step)]
    if tracking.wandb is not None:
        found.append(WandbRun(attempt, tracking.wandb, folder / "wandb" / f"attempt-{attempt.attempt}"))
    if tracking.mlflow is not None:
        found.append(MlflowRun(attempt, tracking.mlflow))
    if tracking.comet is not None:
        found.append(CometExperiment(attempt, tracking.comet, folder / "comet" / f"attempt-{attempt.attempt}"))
    return found
