"""Slow uploads: nobody takes them for a hang or a lost peer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.storage import open_writable
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import RankServer

RANKS = 2
PATIENCE = 5.0
"""How long a collective call of these tests lets a rank wait for the others."""


class Meeting:
    """Where ranks that are threads make their collective calls, which break when one waits too long."""

    def __init__(self) -> None:
        self.values: list[Any] = [None] * RANKS
        self.barrier = threading.Barrier(RANKS, timeout=PATIENCE)


class ThreadCollective(Collective):
    """One thread's side of a meeting."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__(RANKS)
        self._meeting, self._rank = meeting, rank

    def gather(self, value: Any) -> list[Any]:
        self._meeting.values[self._rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.values)
        self._meeting.barrier.wait()
        return found


class SlowStorage:
    """A store that lets no upload through until `opened`."""

    def __init__(self, storage: Any, opened: threading.Event) -> None:
        self._storage, self._opened = storage, opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def child(self, name: str) -> SlowStorage:
        return SlowStorage(self._storage.child(name), self._opened)

    def upload(self, source: Path, name: str) -> Any:
        assert self._opened.wait(60)
        return self._storage.upload(source, name)


def test_ranks_meet_and_beat_while_one_of_them_still_uploads(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text("{}")
    data = write_rows(tmp_path / "rows.jsonl", arithmetic_rows(4))
    plan = tiny_plan(strategy=Strategy.DDP, processes=RANKS)
    attempt = tiny_attempt(model, data, tmp_path / "out", plan=plan)
    staged = tmp_path / "staged"
    staged.mkdir()
    for name in ("one", "other", "third"):
        (staged / name).write_text(name)
    opened, meeting, started = threading.Event(), Meeting(), time.monotonic()
    beats = [0] * RANKS

    def rank(number: int) -> None:
        storage: Any = open_writable(attempt.checkpoint_uri)
        if number == 1:
            storage = SlowStorage(storage, opened)
        place = Place(number, RANKS, number, RANKS)
        writer = CheckpointWriter(attempt, place, storage, ThreadCollective(meeting, number), start=0, verified=None)

        def beat() -> None:
            beats[number] += 1
            if number == 1 and beats[1] == 3:
                opened.set()

        writer.begin(2, staged, started)
        assert writer.finish(beat) is None
        writer.close()

    with ThreadPoolExecutor(RANKS) as threads:
        list(threads.map(rank, range(RANKS)))

    assert min(beats) >= 3
    assert len(list((tmp_path / "out").glob("checkpoints/*/step-*/*/manifest.json"))) == 1


@pytest.mark.parametrize(
    ("stop_at", "uploading", "saved"),
    [
        pytest.param(0, [0, 0, 0, 0, 0], [2, 4, 5], id="nothing is slow"),
        pytest.param(0, [0, 0, 0, 1, 1, 0, 0], [2, 6, 7], id="a due save waits for the upload before it"),
        pytest.param(0, [0, 0, 1, 1], [2, 4], id="the last step is saved whatever is on its way"),
        pytest.param(3, [0, 0, 1, 1, 1, 0], [2, 3, 6], id="a stop is saved whatever is on its way"),
    ],
)
def test_only_periodic_saves_wait_for_a_slow_upload(
    stop_at: int, uploading: list[int], saved: list[int], ranks: RankServer
) -> None:
    answers = ranks.call(
        "finetune_trainer.testing_boundary:boundary_case", every="2steps", uploading=uploading, stop_at=stop_at
    )

    assert [step for step, is_saved in enumerate(answers, 1) if is_saved] == saved


@pytest.mark.parametrize(("seconds_left", "saved"), [(15.0, [2, 3]), (11.0, [2]), (None, [2, 3])])
def test_a_stopped_run_saves_once_more_when_its_grace_period_is_long_enough(
    seconds_left: float | None, saved: list[int], ranks: RankServer
) -> None:
    answers = ranks.call(
        "finetune_trainer.testing_boundary:boundary_case",
        every="2steps",
        uploading=[0, 0, 0, 0],
        stop_at=3,
        seconds_left=seconds_left,
    )

    assert [step for step, is_saved in enumerate(answers[:3], 1) if is_saved] == saved
