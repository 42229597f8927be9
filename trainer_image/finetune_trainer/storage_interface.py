"""What every store can do for a reader, whatever is behind it; tests may put anything else there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredFile:
    """One object below a storage's root."""

    name: str
    """Path relative to the root."""
    uri: str
    size: int
    etag: str | None
    """Changes when the content does; for a local file the modification time in nanoseconds."""


@dataclass(frozen=True)
class Stored:
    """What went through a download or an upload."""

    size: int
    sha256: str


class Storage(Protocol):
    """A folder in some store; names are relative to it."""

    @property
    def uri(self) -> str:
        """The folder's location, without a trailing slash."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield every file below the folder `prefix`, in the order of names. A folder that is not there has none."""
        ...

    def head(self, name: str) -> StoredFile:
        """Return what is known about one file without reading it."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether a file is there; a store that refuses to say raises."""
        ...

    def read(self, name: str) -> bytes:
        """Return a small file's content."""
        ...

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of a file, fewer where it ends earlier."""
        ...

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's content in order, with bounded memory; a file that changes meanwhile is StorageUnavailable."""
        ...

    def download(self, name: str, target: Path) -> Stored:
        """Write a file's content to `target`, complete or not at all, and return its size and digest."""
        ...
