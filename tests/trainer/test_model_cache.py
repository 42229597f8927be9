"""Models shared by pods and jobs: one download, never half-written, and thrown away when a byte of it is another one."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.spec import ModelSource
from finetune_trainer.cached_model import CACHE_MANIFEST, VERIFIED_SECONDS, ModelVersion
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_cache import CacheOutcome, ModelCache
from finetune_trainer.model_files import local_model
from finetune_trainer.shared_lock import LockTimes
from finetune_trainer.storage_errors import StorageUnavailable
from finetune_trainer.storage_interface import Stored
from finetune_trainer.testing_hub import serve_hub
from finetune_trainer.testing_store import SlowStore

CONTENTS = {"config.json": b"{}", "model-1.safetensors": bytes(range(200)), "model-2.safetensors": bytes(100)}
FAST = LockTimes(heartbeat=0.05, stale=0.4, poll=0.01)


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    folder = tmp_path / "store"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return SlowStore(folder, tmp_path / "journal")


class Use:
    """A cache as one node uses it, and what became of the models."""

    def __init__(self, folder: Path, *, kernel: str = "node-a", now: Callable[[], float] = lambda: 1e9) -> None:
        self.outcomes: list[CacheOutcome] = []
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.cache = ModelCache(folder, count=self.outcomes.append, times=FAST, kernel=kernel, now=now)

    def fetch(self, store: SlowStore) -> dict[str, bytes]:
        folder = self.cache.fetch(store, store.version())
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CACHE_MANIFEST}


def downloads(store: SlowStore) -> list[str]:
    return sorted(store.journal.read_text().split()) if store.journal.exists() else []


def cached_file(folder: Path, name: str) -> Path:
    (found,) = (path for path in folder.glob(f"*/{name}") if not path.parent.name.startswith("."))
    return found


def test_a_model_is_downloaded_once_and_then_there_for_others(tmp_path: Path, store: SlowStore) -> None:
    first, second = Use(tmp_path / "cache"), Use(tmp_path / "cache", kernel="node-b")
    assert first.fetch(store) == CONTENTS
    assert second.fetch(store) == CONTENTS
    assert downloads(store) == sorted(CONTENTS)
    assert (first.outcomes, second.outcomes) == (["misses"], ["hits"])
    assert not list((tmp_path / "cache" / ".downloads").iterdir())


def test_another_version_is_another_model(tmp_path: Path, store: SlowStore) -> None:
    use = Use(tmp_path / "cache")
    use.fetch(store)
    (store.folder / "config.json").write_bytes(b"[]")
    assert use.fetch(store)["config.json"] == b"[]"
    old = ModelVersion("hf://org/name", "a" * 40, ())
    assert old.key != replace(old, revision="b" * 40).key
    assert old.folder_name.startswith("org--name-")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "a cut file": lambda path: os.truncate(path, 150),
    "a missing file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_downloaded_is_fetched_again_and_no_other(
    damage: str, tmp_path: Path, store: SlowStore, capsys: pytest.CaptureFixture[str]
) -> None:
    use = Use(tmp_path / "cache")
    use.fetch(store)
    DAMAGES[damage](cached_file(tmp_path / "cache", "model-1.safetensors"))
    assert use.fetch(store) == CONTENTS
    assert use.outcomes == ["misses", "rejected", "misses"]
    assert downloads(store) == sorted([*CONTENTS, "model-1.safetensors"])
    assert "thrown away: not what was downloaded: model-1.safetensors" in capsys.readouterr().out


def test_a_manifest_of_rubbish_makes_all_files_unbelievable(tmp_path: Path, store: SlowStore) -> None:
    use = Use(tmp_path / "cache")
    use.fetch(store)
    cached_file(tmp_path / "cache", CACHE_MANIFEST).write_text("{")
    assert use.fetch(store) == CONTENTS
    assert downloads(store) == sorted([*CONTENTS, *CONTENTS])


def test_every_byte_is_looked_at_once_a_day_on_every_node(tmp_path: Path, store: SlowStore) -> None:
    """A bit that falls over on the disk changes neither size nor time."""
    hour, folder = 3600.0, tmp_path / "cache"
    Use(folder).fetch(store)
    path = cached_file(folder, "model-1.safetensors")
    times = path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    soon = Use(folder, now=lambda: 1e9 + hour)
    assert soon.fetch(store) != CONTENTS  # what is not hashed again is believed
    later = Use(folder, now=lambda: 1e9 + VERIFIED_SECONDS)
    assert later.fetch(store) == CONTENTS
    path = cached_file(folder, "model-1.safetensors")
    times = path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elsewhere = Use(folder, kernel="node-b", now=lambda: 1e9 + VERIFIED_SECONDS)
    assert elsewhere.fetch(store) == CONTENTS
    assert soon.outcomes + later.outcomes + elsewhere.outcomes == ["hits", "rejected", "misses", "rejected", "misses"]


def test_a_holder_that_was_taken_for_dead_uses_what_its_successor_made(tmp_path: Path, store: SlowStore) -> None:
    go_on = threading.Event()
    asleep = replace(store, before_byte=lambda: go_on.wait(20))
    outcomes: list[CacheOutcome] = []
    never = LockTimes(heartbeat=1000, stale=1000, poll=0.01)
    folder = tmp_path / "cache"
    sleeper = ModelCache(folder, count=outcomes.append, times=never, kernel="node-a")
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(sleeper.fetch(asleep, asleep.version())))
    folder.mkdir()
    thread.start()
    while not downloads(store):
        go_on.wait(0.01)
    successor = Use(folder, kernel="node-b")
    assert successor.fetch(store) == CONTENTS
    go_on.set()
    thread.join(20)
    assert (successor.outcomes, outcomes) == (["misses"], ["hits"])
    assert (found[0] / "model-1.safetensors").read_bytes() == CONTENTS["model-1.safetensors"]
    assert not list((folder / ".downloads").iterdir())


def test_a_model_that_is_larger_than_the_volume_is_not_begun(tmp_path: Path, store: SlowStore) -> None:
    (tmp_path / "cache").mkdir()
    huge = replace(store.version().files[0], size=2**60)
    with pytest.raises(TrainerFailure, match=r"the model cache is full \(.* GiB free, 1073741824.0 GiB are needed\)"):
        ModelCache(tmp_path / "cache", times=FAST).fetch(store, ModelVersion(store.uri, "", (huge,)))
    assert downloads(store) == []


def break_off(store: SlowStore, use: Use) -> None:
    """Fetch from a store that goes away at the last byte of the last file, when the others are complete."""
    left = iter(range(sum(map(len, CONTENTS.values())) - 1))

    def go_away() -> None:
        if next(left, None) is None:
            while len(list((use.folder / ".downloads").glob("*/.*.complete"))) < len(CONTENTS) - 1:
                time.sleep(0.01)
            raise StorageUnavailable("s3://bucket", "it answered HTTP 503", "it is tried again")

    with pytest.raises(StorageUnavailable):
        use.fetch(replace(store, before_byte=go_away))


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_download_goes_on_with_the_files_that_are_complete_and_right(
    damaged: bool, tmp_path: Path, store: SlowStore
) -> None:
    use = Use(tmp_path / "cache")
    break_off(store, use)
    (folder,) = (use.folder / ".downloads").iterdir()
    complete = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert len(complete) == len(CONTENTS) - 1
    before = downloads(store)
    if damaged:
        flip(complete[0])
    assert use.fetch(store) == CONTENTS
    missing = set(CONTENTS) - {path.name for path in complete}
    again = {complete[0].name} if damaged else set()
    assert downloads(store) == sorted([*before, *missing, *again])
    assert list((use.folder / ".downloads").iterdir()) == []


class BrokenVolume(SlowStore):
    """What a download meets on a volume that refuses to be written to."""

    number = errno.ENOSPC

    def download(self, name: str, target: Path) -> Stored:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, ExitCode.NOT_FOUND, "is full"),
        (errno.EACCES, ExitCode.NOT_FOUND, "cannot be written by user"),
        (errno.ESTALE, ExitCode.STORAGE_DOWN, "does not answer"),
    ],
)
def test_what_a_volume_refuses_is_told_and_the_lock_given_back(
    number: int, code: ExitCode, words: str, tmp_path: Path, store: SlowStore
) -> None:
    broken = BrokenVolume(store.folder, store.journal)
    broken.__dict__["number"] = number
    use = Use(tmp_path / "cache")
    with pytest.raises(TrainerFailure, match=words) as refused:
        use.fetch(broken)
    assert refused.value.exit_code is code
    assert Use(tmp_path / "cache", kernel="node-b").fetch(store) == CONTENTS


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "model.safetensors": bytes(500),
        "README.md": b"not needed",
    }
    with serve_hub("org/name", files) as endpoint:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        yield


@pytest.mark.usefixtures("hub")
def test_a_model_of_the_hub_goes_through_the_cache(tmp_path: Path) -> None:
    outcomes: list[CacheOutcome] = []
    (tmp_path / "cache").mkdir()
    cache = ModelCache(tmp_path / "cache", count=outcomes.append)
    source = ModelSource(uri="hf://org/name")
    folders = {local_model(source, tmp_path / work / "model", cache) for work in ("one", "two")}
    (folder,) = folders
    assert sorted(path.name for path in folder.iterdir()) == [CACHE_MANIFEST, "config.json", "model.safetensors"]
    assert outcomes == ["misses", "hits"]
    assert not (tmp_path / "one").exists()


def test_a_local_model_needs_no_cache(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(bytes(10))
    cache = ModelCache(tmp_path / "cache")
    assert local_model(ModelSource(uri=f"file://{tmp_path}"), tmp_path / "work", cache) == tmp_path
