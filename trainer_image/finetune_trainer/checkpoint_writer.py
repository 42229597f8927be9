"""Checkpoints on their way to the bucket: every rank sends its share in the background, rank 0 commits when all have.

A share is what the rank holds in host memory (capture.py), each file hashed while it is serialised into the upload, and its part of the files
that lie on the pod's disk.

A checkpoint exists when its manifest does, which is written last and create-only. Nothing in the background talks to other ranks: at the
end of each step the ranks agree whether all uploads are done (step_boundary.py), so that no thread of ours races with the training's own
collectives.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.recipe import written_recipe
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_names import CheckpointFolder, Shelf, share, superfluous
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.last_save import Outlook
from finetune_trainer.storage import ObjectStorage
from finetune_trainer.storage_errors import AlreadyExists, StorageError, StorageUnavailable
from finetune_trainer.upload_retries import UploadPatience, UploadRetries

if TYPE_CHECKING:
    from finetune_trainer.staged_files import StagedFile  # torch

PARALLEL_FILES: Final = 2
MEETING_SECONDS: Final = 0.5
"""How often ranks that wait for a slow upload meet: none may sit in one collective call until it gives up and looks like a lost peer."""
_NONE: Final[Mapping[str, StagedFile]] = MappingProxyType({})
_PACKAGES: Final = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")


@dataclass(frozen=True)
class _Pending:
    folder: CheckpointFolder
    staged: Path
    started: float
    stalled: float
    upload: Future[tuple[FileEntry, ...]]
    retries: UploadRetries


class CheckpointWriter:
    """One rank's part in writing checkpoints; at most one is on its way at any time."""

    def __init__(
        self,
        attempt: AttemptFile,
        place: Place,
        storage: ObjectStorage,
        collective: Collective,
        *,
        start: int,
        verified: CheckpointFolder | None,
        rejected: tuple[CheckpointFolder, ...] = (),
        on_commit: Callable[[CheckpointEvent], None] = lambda event: None,
        on_failure: Callable[[str], None] = lambda problem: None,
        on_retry: Callable[[str], None] = lambda problem: None,
        patience: UploadPatience | None = None,
    ) -> None:
        self._attempt, self._place, self._storage, self._collective = attempt, place, storage, collective
        self._start = start
        self._verified = {verified} if verified else set()
        self._rejected = rejected
        self._on_commit, self._on_failure, self._on_retry = on_commit, on_failure, on_retry
        self._patience = patience or UploadPatience()
        self._retries: UploadRetries | None = None
        self.proven_before = 0
        """Checkpoints of earlier steps have made a usual loss since: only for such a one may an older one go."""
        self.is_final = False
        """The training ends with the next checkpoint, before the plan's last step."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._files = ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="upload")
        self._pending: _Pending | None = None
        self._commit: Future[str | None] | None = None
        self._last_bytes = 0
        self._bytes_per_second: float | None = None

    @property
    def is_uploading(self) -> bool:
        """This rank has a share that is not uploaded yet."""
        return self._pending is not None and not self._pending.upload.done()

    @property
    def is_struggling(self) -> bool:
        """The newest checkpoint had to be tried again, and is not sent yet."""
        return self.is_uploading and self._retries is not None and self._retries.has_failed

    def give_up_retrying(self) -> None:
        """Try what is on its way no further than its next failure: a newer checkpoint takes its place."""
        if self._retries is not None:
            self._retries.give_up()

    def outlook(self, seconds_left: float | None) -> Outlook:
        """Return what this rank would have to send if one more checkpoint were saved now."""
        return Outlook(self._last_bytes * (2 if self.is_uploading else 1), self._bytes_per_second, seconds_left)

    @property
    def has_pending(self) -> bool:
        """A checkpoint waits for its commit; the same on every rank."""
        return self._pending is not None

    def begin(
        self, step: int, staged: Path, started: float, held: Mapping[str, StagedFile] = _NONE
    ) -> CheckpointFolder:
        """Start to upload a staged checkpoint, and return where to. Collective.

        Args:
            step: After which it was saved.
            staged: The folder with its files on disk, which must be complete on every pod.
            started: When the save began, as time.monotonic() says.
            held: The files that this rank holds in memory, by their names.
        """
        names = [str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()]
        mine = share(self._collective.gather((self._place.pod, names)), self._place)
        folder = CheckpointFolder(step, self._attempt.attempt, self._start)
        self._retries = UploadRetries(
            self._patience,
            lambda problem: self._on_retry(f"the checkpoint of step {step} is delayed: {problem}"),
        )
        upload = self._pool.submit(self._upload, folder, staged, mine, held, self._retries)
        self._pending = _Pending(folder, staged, started, time.monotonic() - started, upload, self._retries)
        return folder

    def finish(self, on_wait: Callable[[], object] = lambda: None, others: Iterable[FileEntry] = ()) -> str | None:
        """Wait for every rank's upload and have rank 0 commit. Collective. Returns the first problem, the same on every rank.

        `on_wait` is called on every rank while any upload is on its way; `others` are files of the checkpoint that no rank has uploaded.
        """
        if self._pending is None:
            return None
        self._wait_on_all_ranks(self._pending.upload, on_wait)
        pending, self._pending = self._pending, None
        entries: tuple[FileEntry, ...] = ()
        problem = ""
        try:
            entries = pending.upload.result()
        except (StorageError, OSError) as error:
            problem = f"rank {self._place.rank}: {error}"
        answers = self._collective.gather((problem, entries))
        if self._place.is_first_of_pod:
            shutil.rmtree(pending.staged, ignore_errors=True)
        first = next((problem for problem, _ in answers if problem), None)
        if first is not None:
            self._on_failure(f"the checkpoint of step {pending.folder.step} was not uploaded: {first}")
            return first
        if self._place.is_first:
            entries = (*others, *(entry for _, part in answers for entry in part))
            files = tuple(sorted(entries, key=lambda entry: entry.name))
            self._commit = self._pool.submit(self._commit_or_tell, pending, files)
        return None

    def abandon(self) -> None:
        """Wait for the upload and forget it: without a manifest it does not exist. Of one process alone."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            wait_for_futures([pending.upload])
            shutil.rmtree(pending.staged, ignore_errors=True)

    def close(self) -> None:
        """Finish what is on its way and wait until it is committed. Collective; a final checkpoint that fails is a TrainerFailure."""
        problem = self.finish() or ""
        self._wait_on_all_ranks(self._commit, lambda: None)
        if self._commit is not None:
            problem = self._commit.result() or problem
        failed = next((text for text in self._collective.gather(problem) if text), None)
        self._pool.shutdown()
        self._files.shutdown()
        if failed is not None:
            raise TrainerFailure(ExitCode.STORAGE_DOWN, f"the last checkpoint could not be saved: {failed}")

    def _wait_on_all_ranks(self, work: Future[Any] | None, on_wait: Callable[[], object]) -> None:
        """Wait until every rank's work is done. It ends: every request is bounded and so are retries, so that work that stands fails."""
        while any(self._collective.gather(work is not None and not work.done())):
            on_wait()
            if work is not None:
                wait_for_futures([work], MEETING_SECONDS)

    def _upload(
        self,
        folder: CheckpointFolder,
        staged: Path,
        names: tuple[str, ...],
        held: Mapping[str, StagedFile],
        retries: UploadRetries,
    ) -> tuple[FileEntry, ...]:
        target = self._storage.child(folder.name)

        def upload(name: str) -> FileEntry:
            file = held.get(name)
            stored = retries.run(
                lambda: target.write(name, file.write_to, file.size) if file else target.upload(staged / name, name)
            )
            return FileEntry(name=name, size=stored.size, sha256=stored.sha256)

        largest_first = sorted(held, key=lambda name: -held[name].size)
        started = time.monotonic()
        entries = tuple(self._files.map(upload, (*largest_first, *names)))
        self._last_bytes = sum(entry.size for entry in entries)
        self._bytes_per_second = self._last_bytes / max(time.monotonic() - started, 1e-3)
        return entries

    def _commit_or_tell(self, pending: _Pending, files: tuple[FileEntry, ...]) -> str | None:
        """Commit, and return the problem when it failed: only the last checkpoint's failure ends the run."""
        try:
            pending.retries.run(lambda: self._write_manifest(pending, files))
        except StorageError as error:
            self._on_failure(f"the checkpoint of step {pending.folder.step} was not committed: {error}")
            return str(error)
        return None

    def _write_manifest(self, pending: _Pending, files: tuple[FileEntry, ...]) -> None:
        target = self._storage.child(pending.folder.name)
        stored = {file.name: file.size for file in target.list()}
        if wrong := [entry.name for entry in files if stored.get(entry.name) != entry.size]:
            raise StorageUnavailable(
                target.uri,
                f"{len(wrong)} uploaded files are not there in full, such as {wrong[0]}",
                "it is tried again",
            )
        manifest = Manifest(
            kind="checkpoint",
            namespace=self._attempt.namespace,
            job=self._attempt.name,
            uid=self._attempt.uid,
            attempt=self._attempt.attempt,
            step=pending.folder.step,
            is_final=self.is_final,
            world_size=self._attempt.plan.processes,
            strategy=self._attempt.plan.strategy,
            offload=self._attempt.plan.offload,
            plan=self._attempt.plan.memory_key,
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            versions=installed_versions(),
            recipe=written_recipe(self._attempt.spec, self._attempt.inspection),
            files=files,
        )
        _put_once(target, manifest.model_dump_json(by_alias=True).encode())
        self._verified.add(pending.folder)
        self._on_commit(
            CheckpointEvent(
                attempt=self._attempt.attempt,
                step=manifest.step,
                uri=target.uri,
                verified=True,
                bytes=manifest.total_bytes,
                seconds=time.monotonic() - pending.started,
                stall_seconds=pending.stalled,
            )
        )
        self._delete_superfluous()

    def _delete_superfluous(self) -> None:
        try:
            shelf = Shelf.of(file.name for file in self._storage.list())
            keep, last = self._attempt.spec.checkpoint.keep, self._attempt.plan.total_steps
            proven = {folder for folder in self._verified if folder.step < self.proven_before or folder.step >= last}
            for folder in superfluous(shelf, verified=proven, rejected=self._rejected, keep=keep):
                # The manifest first: a checkpoint whose files are half gone must not look whole.
                self._storage.delete(f"{folder.name}/{MANIFEST_FILE}")
                self._storage.delete_prefix(folder.name)
        except StorageError as error:
            print(f"old checkpoints were not deleted, which is tried again after the next one: {error}", flush=True)


def _put_once(target: ObjectStorage, manifest: bytes) -> None:
    """Write the manifest create-only; it may be there already when the answer to an earlier try was lost on its way."""
    try:
        target.put_small(MANIFEST_FILE, manifest, create_only=True)
    except AlreadyExists:
        if target.read(MANIFEST_FILE) != manifest:
            raise


def installed_versions() -> dict[str, str]:
    """Return the versions of the libraries that wrote the files."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
