"""Real processes on one cache folder: they race, they are killed, and nobody ever uses half a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.cached_model import CACHE_MANIFEST

CONTENTS = {"config.json": b"{}", "model.safetensors": bytes(range(100))}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    (tmp_path / "source").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "source" / name).write_bytes(content)
    return tmp_path


@contextmanager
def fetching(place: Path, pause: float, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "finetune_trainer.testing_store"]
    arguments = [str(place / name) for name in ("cache", "source", "journal")]
    process = subprocess.Popen(
        [*command, *arguments, "--pause", str(pause), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outcomes(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    lines = [line.split() for line in said.splitlines()]
    folder = next(Path(words[1]) for words in lines if words[0] == "folder")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CACHE_MANIFEST}
    assert files == CONTENTS
    return [words[1] for words in lines if words[0] == "outcome"]


def journal(place: Path) -> list[str]:
    path = place / "journal"
    return path.read_text().split() if path.exists() else []


def wait_for_download(place: Path, count: int = 2) -> None:
    deadline = time.monotonic() + 60
    while len(journal(place)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def visible(place: Path) -> list[str]:
    return [path.name for path in (place / "cache").iterdir() if not path.name.startswith(".")]


def test_of_four_processes_at_once_one_downloads(place: Path) -> None:
    with fetching(place, 0.01) as a, fetching(place, 0.01) as b, fetching(place, 0.01) as c, fetching(place, 0.01) as d:
        found = sorted(outcome for process in (a, b, c, d) for outcome in outcomes(process))
    assert found == ["hits", "hits", "hits", "misses"]
    assert sorted(journal(place)) == sorted(CONTENTS)


def test_a_killed_download_is_seen_by_nobody_and_the_next_process_of_the_node_goes_on_at_once(place: Path) -> None:
    with fetching(place, 1000.0) as holder:
        wait_for_download(place)
        assert visible(place) == []
        with fetching(place, 0.0, "--stale", "1000") as waiting:
            assert waiting.stdout is not None
            for line in iter(waiting.stdout.readline, ""):
                if line.startswith("waiting for"):
                    break
            os.kill(holder.pid, signal.SIGKILL)
            assert outcomes(waiting) == ["misses"]
    assert sorted(journal(place)) == sorted([*CONTENTS, *CONTENTS])
    assert list((place / "cache" / ".downloads").iterdir()) == []


def test_on_another_node_a_living_holder_is_waited_for_and_a_dead_one_is_not(place: Path) -> None:
    """Where flock says nothing only the heartbeat does: one holder downloads for longer than the stale time, the other one is killed."""
    with fetching(place, 0.04, "--kernel", "a") as holder:
        wait_for_download(place)
        with fetching(place, 0.0, "--kernel", "b", "--stale", "2") as waiting:
            assert outcomes(waiting) == ["hits"]
        assert outcomes(holder) == ["misses"]
    (place / "source" / "config.json").write_bytes(b"{}")
    (place / "source" / "model.safetensors").write_bytes(bytes(100))  # another version
    with fetching(place, 1000.0, "--kernel", "a") as holder:
        wait_for_download(place, 4)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with fetching(place, 0.0, "--kernel", "b", "--stale", "2") as waiting:
            assert waiting.wait(timeout=60) == 0
    assert len(visible(place)) == 2
