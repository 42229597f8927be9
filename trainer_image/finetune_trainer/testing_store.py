"""A slow store for tests, and a process that fetches a model from it through a cache: races and kills need real processes.

python -m finetune_trainer.testing_store CACHE SOURCE JOURNAL --pause 0.05
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.cached_model import ModelVersion
from finetune_trainer.model_cache import ModelCache
from finetune_trainer.shared_lock import LockTimes
from finetune_trainer.storage_interface import Stored, StoredFile
from finetune_trainer.storage_streams import write_stream


@dataclass(frozen=True)
class SlowStore:
    """The files of a folder, a byte at a time."""

    folder: Path
    journal: Path
    """Every download adds a line with its file's name."""
    before_byte: Callable[[], object] = lambda: None

    @property
    def uri(self) -> str:
        """A location that a cache is used for."""
        return "s3://bucket/org/tiny"

    def version(self) -> ModelVersion:
        """Return the model as it is in the folder now."""
        return ModelVersion(self.uri, "", tuple(self.list()))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield all files."""
        for path in sorted(self.folder.iterdir()):
            yield self.head(path.name)

    def head(self, name: str) -> StoredFile:
        """Return a file; the ETag is its content."""
        content = (self.folder / name).read_bytes()
        return StoredFile(name, f"{self.uri}/{name}", len(content), content.hex())

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.folder / name).read_bytes()

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end)."""
        return self.read(name)[start:end]

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes one by one."""
        for byte in self.read(name):
            self.before_byte()
            yield bytes([byte])

    def download(self, name: str, target: Path) -> Stored:
        """Write a file slowly, as the real stores do: it appears when it is complete."""
        with self.journal.open("a") as journal:
            journal.write(f"{name}\n")
        return write_stream(self.stream(name), target)


def main(arguments: list[str]) -> None:
    """Fetch the model and print what the cache said and the folder."""
    parser = argparse.ArgumentParser()
    for name in ("cache", "source", "journal"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--kernel")
    parser.add_argument("--heartbeat", type=float, default=0.1)
    parser.add_argument("--stale", type=float, default=30.0)
    options = parser.parse_args(arguments)
    store = SlowStore(options.source, options.journal, lambda: time.sleep(options.pause))
    times = LockTimes(heartbeat=options.heartbeat, stale=options.stale, poll=0.02)
    cache = ModelCache(
        options.cache,
        count=lambda outcome: print(f"outcome {outcome}", flush=True),
        times=times,
        kernel=options.kernel,
    )
    print(f"folder {cache.fetch(store, store.version())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
