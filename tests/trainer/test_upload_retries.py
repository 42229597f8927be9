"""A store that fails for a while delays a checkpoint; what is newer takes its place; only the last one's failure is told as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import AlreadyExists, StorageRefused, StorageUnavailable, open_writable
from finetune_trainer.upload_retries import UploadPatience, UploadRetries

SHORT = UploadPatience(seconds=30.0, first_pause=0.01, longest_pause=0.02)


class Troubled:
    """A store whose uploads fail as often as it is told, and that loses the answer to its first create-only write."""

    def __init__(self, storage: Any, failures: list[Exception], answers: list[bool]) -> None:
        self._storage, self._failures, self._answers = storage, failures, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def child(self, name: str) -> Troubled:
        return Troubled(self._storage.child(name), self._failures, self._answers)

    def upload(self, source: Path, name: str) -> Any:
        if self._failures:
            raise self._failures.pop()
        return self._storage.upload(source, name)

    def put_small(self, name: str, data: bytes, *, create_only: bool = False) -> None:
        self._storage.put_small(name, data, create_only=create_only)
        if self._answers and self._answers.pop():
            raise StorageUnavailable(self._storage.uri, "connection reset", "it is tried again")


def writer_on(attempt: AttemptFile, failures: list[Exception], **settings: Any) -> CheckpointWriter:
    storage: Any = Troubled(open_writable(attempt.checkpoint_uri), failures, [True])
    return CheckpointWriter(attempt, Place(0, 1, 0, 1), storage, Collective(1), start=1, verified=None, **settings)


def staged(folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("kind", [StorageUnavailable, StorageRefused])
def test_a_store_that_fails_for_a_while_delays_a_checkpoint_and_a_lost_answer_is_no_failure(
    kind: Callable[[str, str, str], Exception], attempt: AttemptFile, tmp_path: Path
) -> None:
    told: list[str] = []
    committed: list[CheckpointEvent] = []
    failures = [kind("s3://bucket", "HTTP 503", "wait") for _ in range(3)]
    writer = writer_on(attempt, failures, on_retry=told.append, on_commit=committed.append, patience=SHORT)

    writer.begin(2, staged(tmp_path / "staged"), 0.0)
    writer.close()

    assert [event.step for event in committed] == [2]
    assert len(told) == 4  # the manifest's lost answer as well
    assert told[0].startswith("the checkpoint of step 2 is delayed: s3://bucket: HTTP 503; wait (once more in ")


def test_a_checkpoint_in_trouble_is_given_up_for_a_newer_one(attempt: AttemptFile, tmp_path: Path) -> None:
    failed: list[str] = []
    failures: list[Exception] = [StorageUnavailable("s3://bucket", "HTTP 503", "wait") for _ in range(10**6)]
    writer = writer_on(attempt, failures, on_failure=failed.append, patience=SHORT)
    writer.begin(2, staged(tmp_path / "old"), 0.0)
    deadline = time.monotonic() + 10
    while not writer.is_struggling and time.monotonic() < deadline:
        time.sleep(0.01)

    writer.give_up_retrying()
    writer.finish()
    failures.clear()
    writer.begin(4, staged(tmp_path / "new"), 0.0)
    writer.close()

    assert ["step 2 was not uploaded" in text for text in failed] == [True]
    found = Path(attempt.checkpoint_uri.removeprefix("file://")).glob("*/*/manifest.json")
    assert [path.parent.parent.name for path in found] == ["step-00000004"]


def test_a_last_checkpoint_that_cannot_be_saved_is_a_failure_after_its_time(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    failures: list[Exception] = [StorageRefused("s3://bucket", "HTTP 403", "mend it") for _ in range(10**6)]
    writer = writer_on(attempt, failures, patience=UploadPatience(0.2, 0.01, 0.05))
    writer.begin(4, staged(tmp_path / "staged"), 0.0)

    with pytest.raises(TrainerFailure, match=r"the last checkpoint could not be saved: .*HTTP 403; mend it"):
        writer.close()


def test_what_exists_already_is_not_tried_again() -> None:
    calls = []

    def write() -> None:
        calls.append(threading.get_ident())
        raise AlreadyExists("s3://bucket", "it is there", "nothing was written")

    with pytest.raises(AlreadyExists):
        UploadRetries(SHORT).run(write)
    assert len(calls) == 1
