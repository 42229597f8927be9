"""Models kept in a folder that pods and jobs share: one download per model and version, verified, never seen half-written.

    <folder>/<model>-<key>/            a model: its files, and a manifest of their sizes and sha256
    <folder>/.downloads/<key>-…/       one in the making; a rename makes it a model
    <folder>/.locks/<key>.<number>     who makes it (shared_lock.py): the others wait
    <folder>/.verified/<key>-….json    when a node has compared every byte with the manifest (cached_model.py)

The folder must be of a file system that renames folders at once and makes files exclusively: a local disk, NFS, CephFS; not a mounted bucket.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry
from finetune_trainer.cached_model import (
    CACHE_MANIFEST,
    PARALLEL_FILES,
    CachedModel,
    ModelVersion,
    bad_files,
    read_manifest,
    remember_verified,
)
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.interrupted_download import note_complete, remove_notes, take_over, tidy
from finetune_trainer.shared_lock import LockTimes, SharedLock, kernel_id
from finetune_trainer.storage_errors import StorageUnavailable
from finetune_trainer.storage_interface import Storage, StoredFile

_GIB: Final = 2**30

CacheOutcome = Literal["hits", "misses", "rejected"]
"""The model was there; it was downloaded; it was there with other bytes than were downloaded."""


class ModelCache:
    """The models in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        count: Callable[[CacheOutcome], object] = lambda outcome: None,
        times: LockTimes | None = None,
        kernel: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._count, self._times, self._now = folder, count, times, now
        self._kernel = kernel_id() if kernel is None else kernel

    def fetch(self, storage: Storage, version: ModelVersion) -> Path:
        """Return the folder with the files of a model, downloaded by this process or another one, and verified.

        Raises:
            TrainerFailure: the folder of the cache cannot be used.
            StorageError: the download failed.
        """
        with _usable(self._folder):
            return self._fetch(storage, version)

    def _fetch(self, storage: Storage, version: ModelVersion) -> Path:
        folder = self._folder / version.folder_name
        while True:
            manifest, bad = read_manifest(folder), frozenset[str]()
            if manifest is not None:
                bad = bad_files(folder, manifest, self._record(version), now=self._now)
                if not bad:
                    self._count("hits")
                    print(f"the model is in the cache: {folder.name}", flush=True)
                    return folder
                self._count("rejected")
                print(
                    f"{folder.name} in the model cache is thrown away: not what was downloaded: {', '.join(sorted(bad)[:3])}",
                    flush=True,
                )
            seen = manifest.download if manifest else None

            def made_by_another(seen: str | None = seen) -> bool:
                there = read_manifest(folder)
                return there is not None and there.download != seen

            lock = SharedLock(self._folder / ".locks", version.key, times=self._times, kernel=self._kernel)
            held = lock.acquire(made_by_another, waiting=_say_who)
            if held is None:
                continue
            with held:
                if made_by_another():
                    continue
                good = {file.name: file for file in manifest.files if file.name not in bad} if manifest else {}
                try:
                    self._make(folder, storage, version, good)
                except OSError:
                    # A successor clears what it takes for a dead process's remains, or was faster.
                    if held.is_superseded():
                        continue
                    raise
                self._count("misses")
                return folder

    def _make(self, folder: Path, storage: Storage, version: ModelVersion, good: dict[str, FileEntry]) -> None:
        """Make the model's folder out of the old one's good files, what interrupted downloads have left, and new downloads."""
        making = self._downloads(version)
        left = {folder: tidy(folder) for folder in making.parent.glob(f"{version.key}-*")}
        making.mkdir(parents=True)
        there = set(good).union(*left.values())
        _check_room(self._folder, sum(file.size for file in version.files if file.name not in there))
        downloaded: list[FileEntry] = []
        started = time.monotonic()

        def obtain(file: StoredFile) -> FileEntry:
            path = making / file.name
            if (kept := good.get(file.name)) is not None and _linked(folder / file.name, path):
                return kept
            for remains, entries in left.items():
                if (entry := entries.get(file.name)) is not None and take_over(remains, entry, path):
                    note_complete(making, entry)
                    return entry
            stored = storage.download(file.name, path)
            _flush(path)
            entry = FileEntry(name=file.name, size=stored.size, sha256=stored.sha256)
            note_complete(making, entry)
            downloaded.append(entry)
            return entry

        try:
            with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="model-cache") as pool:
                entries = tuple(pool.map(obtain, version.files))
            manifest = CachedModel(
                uri=version.uri,
                revision=version.revision,
                download=uuid.uuid4().hex,
                created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                files=entries,
            )
            remove_notes(making)
            (making / CACHE_MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
            for written in (making / CACHE_MANIFEST, making):
                _flush(written)
            remember_verified(self._record(version), making, manifest, now=self._now)
            self._put_in_place(making, folder, version)
        except StorageUnavailable:
            raise  # the next try goes on from what is complete
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        for remains in left:
            shutil.rmtree(remains, ignore_errors=True)
        size = sum(entry.size for entry in downloaded)
        print(
            f"the model was downloaded into the cache: {folder.name}, {size} bytes in {time.monotonic() - started:.1f} s",
            flush=True,
        )

    def _put_in_place(self, making: Path, folder: Path, version: ModelVersion) -> None:
        # Old and new change places within microseconds: another job may be about to open the next file of the folder.
        old = self._downloads(version)
        if folder.exists():
            folder.rename(old)
        making.rename(folder)
        _flush(self._folder)
        shutil.rmtree(old, ignore_errors=True)

    def _downloads(self, version: ModelVersion) -> Path:
        return self._folder / ".downloads" / f"{version.key}-{uuid.uuid4().hex[:8]}"

    def _record(self, version: ModelVersion) -> Path:
        return self._folder / ".verified" / f"{version.key}-{self._kernel[:8]}.json"


def _say_who(holder: str) -> None:
    print(f"waiting for {holder}, which downloads the model into the cache", flush=True)


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; some network file systems know none."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _flush(path: Path) -> None:
    """Have what was written on the disk before a rename makes it count: else a node that loses power may keep names without contents."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainerFailure(
            ExitCode.NOT_FOUND, _full(f"{free / _GIB:.1f} GiB free, {needed / _GIB:.1f} GiB are needed")
        )


def _full(situation: str) -> str:
    return (
        f"the model cache is full ({situation}); enlarge the volume, delete the folders of models that no job uses, "
        "or remove model.cache"
    )


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a failure that somebody can act on."""
    try:
        yield
    except OSError as error:
        said = os.strerror(error.errno) if error.errno is not None else type(error).__name__
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TrainerFailure(ExitCode.NOT_FOUND, _full(said)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TrainerFailure(
                ExitCode.NOT_FOUND,
                f"the model cache {folder} cannot be written by user {os.getuid()} ({said}); let that user or its group write there",
            ) from error
        if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN):
            raise TrainerFailure(
                ExitCode.STORAGE_DOWN, f"the model cache {folder} does not answer ({said}); it is tried again"
            ) from error
        raise
