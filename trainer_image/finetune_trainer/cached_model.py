"""One model in a cache folder: its manifest, and whether its files are still what the manifest says.

Sizes and modification times are compared at every use. All bytes are hashed at a node's first use of the model since it was started, again after a
day, and when a size or a time has changed. It goes on beside the imports, and brings the files into the page cache from which they are loaded next;
a thread hashes 0.8 GB/s (AMD EPYC, both cores busy with other work), so four take 45 s for 140 GB where the volume is as fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.manifest import FileEntry
from finetune_operator.api.model import ReadModel
from finetune_trainer.storage_interface import StoredFile

CACHE_MANIFEST: Final = ".finetune-model.json"
VERIFIED_SECONDS: Final = 24 * 3600.0
"""How long a node believes its own verification of files whose sizes and times have not changed."""
PARALLEL_FILES: Final = 4
_KEY_LENGTH: Final = 16
_NAME_LENGTH: Final = 80


class CachedModel(ReadModel):
    """The manifest of a cached model, written before its folder gets its name."""

    version: int = 1
    uri: str
    revision: str
    download: str
    """Another one after each download: a model that was fetched anew is told from the one that was thrown away."""
    created_at: str
    files: tuple[FileEntry, ...]


UNREADABLE: Final = CachedModel(
    uri="", revision="", download="", created_at="", files=(FileEntry(name=CACHE_MANIFEST, size=-1, sha256="0" * 64),)
)
"""Somebody's bytes instead of our manifest: no file of that folder can be believed."""


class Verification(ReadModel):
    """What a node remembers of a model whose every byte it has seen."""

    download: str
    verified_at: float
    """Unix seconds."""
    modified: dict[str, int]
    """Modification time of each file in nanoseconds."""


@dataclass(frozen=True)
class ModelVersion:
    """Which model, at which version: the hub's commit, and each file's size and ETag, which for buckets are the version."""

    uri: str
    revision: str
    files: tuple[StoredFile, ...]

    @property
    def key(self) -> str:
        """What tells it from all others."""
        content = [self.uri, self.revision, sorted((file.name, file.size, file.etag) for file in self.files)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_KEY_LENGTH]

    @property
    def folder_name(self) -> str:
        """A name for people to read, and the key."""
        words = re.sub(r"[^A-Za-z0-9._-]+", "--", self.uri.partition("://")[2].partition("@")[0])
        return f"{words[-_NAME_LENGTH:].strip('.-')}-{self.key}"


def read_manifest(folder: Path) -> CachedModel | None:
    """Return the manifest of a cached model; None where there is none."""
    try:
        return CachedModel.model_validate_json((folder / CACHE_MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        return UNREADABLE


def bad_files(
    folder: Path, manifest: CachedModel, record: Path, *, now: Callable[[], float] = time.time
) -> frozenset[str]:
    """Return the files that are not what the manifest says. Every byte is looked at unless `record` tells that this node has done so."""
    found = {file.name: _stat(folder / file.name) for file in manifest.files}
    bad = {file.name for file in manifest.files if (stat := found[file.name]) is None or stat.st_size != file.size}
    modified = {name: stat.st_mtime_ns for name, stat in found.items() if stat is not None}
    if not bad and _is_verified(record, manifest, modified, now()):
        return frozenset()
    started = time.monotonic()
    rest = [file for file in manifest.files if file.name not in bad]
    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="model-cache") as pool:
        right = list(pool.map(lambda file: _sha256(folder / file.name) == file.sha256, rest))
    bad |= {file.name for file, is_right in zip(rest, right, strict=True) if not is_right}
    size = sum(file.size for file in rest)
    print(f"the cached model was hashed: {size} bytes in {time.monotonic() - started:.1f} s", flush=True)
    if not bad:
        remember_verified(record, folder, manifest, now=now)
    return frozenset(bad)


def remember_verified(
    record: Path, folder: Path, manifest: CachedModel, *, now: Callable[[], float] = time.time
) -> None:
    """Write down that this node has seen every byte of the model."""
    modified = {file.name: (folder / file.name).stat().st_mtime_ns for file in manifest.files}
    verification = Verification(download=manifest.download, verified_at=now(), modified=modified)
    partial = record.with_name(f".{record.name}.{uuid.uuid4().hex[:8]}")
    try:
        record.parent.mkdir(exist_ok=True)
        partial.write_text(verification.model_dump_json(by_alias=True))
        partial.replace(record)
    except OSError as error:
        # A volume that may only be read can be used all the same; it is hashed at every start.
        print(f"the verification of {folder.name} is not remembered: {error.strerror}", flush=True)


def _is_verified(record: Path, manifest: CachedModel, modified: dict[str, int], now: float) -> bool:
    try:
        before = Verification.model_validate_json(record.read_bytes())
    except (FileNotFoundError, ValidationError):
        return False
    same = before.download == manifest.download and before.modified == modified
    return same and 0 <= now - before.verified_at < VERIFIED_SECONDS


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
