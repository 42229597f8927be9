"""The two sides of a checkpoint of several pods: the first one, which waits for the others' parts, and another one, which sends its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry
from finetune_trainer.checkpoint_location import read_manifest
from finetune_trainer.checkpoint_names import CheckpointFolder, Shelf
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.script_folder import Snapshot, newest_step
from finetune_trainer.script_pods import (
    REQUEST_FILE,
    Part,
    Request,
    begun_file,
    folder_of_pod,
    is_answerable,
    open_request,
    part_file,
)
from finetune_trainer.storage import ObjectStorage
from finetune_trainer.storage_errors import StorageError
from finetune_trainer.upload_retries import UploadPatience, UploadRetries

TELL_SECONDS: Final = 60.0


@dataclass(frozen=True)
class PodLimits:
    """How long a pod waits for the others, in seconds."""

    look: float = 5.0
    """Between two looks into the bucket."""
    nothing: float = 60.0
    """Since the first pod has asked: until one that has saved no step is taken for one that leaves that to the first, and not for a slow one."""
    answer: float = 20.0
    """After SIGTERM: until another pod has at least begun to send."""
    send: float = 105.0
    """After SIGTERM: until all have sent."""

    @classmethod
    def within(cls, grace_seconds: float) -> PodLimits:
        """Return the limits where SIGKILL comes so long after SIGTERM."""
        send = max(5.0, grace_seconds - 15)
        return cls(answer=min(cls.answer, send), send=send)


class OtherPods:
    """What the first pod knows of the other ones' parts."""

    def __init__(self, storage: ObjectStorage, pods: int, resumed: int | None, limits: PodLimits) -> None:
        self._storage, self._pods, self._resumed, self.limits = storage, range(1, pods), resumed, limits
        self._wanted: tuple[CheckpointFolder, Request] | None = None
        self._parts: dict[int, Part] = {}
        self._is_told = False
        self._looked = self._asked = 0.0
        self._has_begun = False

    def ask(self, folder: CheckpointFolder, request: Request) -> None:
        """Ask for the parts of a checkpoint; what was asked for before is forgotten."""
        self._wanted, self._parts, self._is_told, self._has_begun = (folder, request), {}, False, False
        self._asked = self._told = time.monotonic()
        self._looked = 0.0
        self.parts()

    def has_moved_on(self, newest: int | None) -> bool:
        """Whether the script has saved another step than the one that is asked for."""
        return self._wanted is not None and self._wanted[1].newest != newest

    def have_all_begun(self) -> bool:
        """Whether every other pod sends its part, or has."""
        return self._has_begun

    def parts(self) -> tuple[FileEntry, ...] | None:
        """Return the files of all other pods, None while one has not sent its own.

        Raises:
            TrainerFailure: A pod has gone on from another checkpoint than this one.
        """
        if self._wanted is None:
            return None
        now = time.monotonic()
        missing = [pod for pod in self._pods if pod not in self._parts]
        if missing and now - self._looked >= self.limits.look:
            self._looked = now
            try:
                self._read(self._wanted, missing)
            except (StorageError, OSError) as error:  # a folder of this machine, too, loses files while it is listed
                print(f"the other pods' parts of a checkpoint are not known, which is tried again: {error}", flush=True)
            missing = [pod for pod in self._pods if pod not in self._parts]
        if not missing:
            return tuple(entry for part in self._parts.values() for entry in part.files)
        if now - self._told >= TELL_SECONDS:
            self._told = now
            waited = f"the checkpoint of step {self._wanted[0].step} has waited {now - self._asked:.0f} s for pods"
            print(f"{waited} {', '.join(map(str, missing))}: their folders are not at that step", flush=True)
        return None

    def _read(self, wanted: tuple[CheckpointFolder, Request], missing: list[int]) -> None:
        folder, request = wanted
        storage = self._storage.child(folder.name)
        if not self._is_told:
            storage.put_small(REQUEST_FILE, request.model_dump_json().encode())
            self._is_told = True
        names = {file.name for file in storage.list()}
        self._has_begun = all(begun_file(pod) in names for pod in self._pods)
        for pod in missing:
            if part_file(pod) in names:
                part = Part.model_validate_json(storage.read(part_file(pod)))
                if part.resumed != self._resumed:
                    raise TrainerFailure(
                        ExitCode.STORAGE_DOWN,
                        f"pod {pod} went on from step {part.resumed} and the first pod from step {self._resumed}: one of them could not read the "
                        "newest checkpoint; the next attempt reads it again",
                    )
                self._parts[pod] = part


class OtherPodSaver:
    """Sends another pod's part of each checkpoint that the first pod asks for."""

    def __init__(
        self,
        storage: ObjectStorage,
        attempt: int,
        pod: int,
        source: Path,
        staged: Path,
        resumed: int | None,
        limits: PodLimits,
        stopped: Callable[[], bool],
    ) -> None:
        self._storage, self._attempt, self._pod = storage, attempt, pod
        self._source, self._staged, self._resumed = source, staged, resumed
        self._limits, self._stopped = limits, stopped
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="part")
        self._sending: tuple[CheckpointFolder, Snapshot, Future[tuple[FileEntry, ...]]] | None = None
        self._looked = 0.0
        self._asked: float | None = None
        """When this pod was first asked."""
        self._sent: Snapshot | None = None
        """What was in the last part."""
        self._is_complete = False

    def look(self, current: Snapshot, now: float, *, is_quiet: bool) -> None:
        """Answer what is asked for, when this pod's folder is of that step."""
        self._step(current, now, may_send=is_quiet and current.is_whole, code=None)

    def end(self, current: Snapshot, code: int, *, is_quiet: bool) -> bool:
        """Send what the script has left: after a good end until the first pod has committed it, after SIGTERM where it still asks for it."""
        has_ended, stopped_at = code == 0, None
        try:
            while has_ended or self._stopped():
                now = time.monotonic()
                stopped_at = now if stopped_at is None and self._stopped() else stopped_at
                self._step(current, now, may_send=has_ended or current.is_whole, code=code)
                if self._is_complete:
                    return True
                if not has_ended and self._sent == current:
                    return False  # what there is has been sent, and whether it counts is the first pod's affair
                is_busy = self._sending is not None
                if stopped_at is not None and now - stopped_at > (
                    self._limits.send if is_busy else self._limits.answer
                ):
                    return False
                time.sleep(min(self._limits.look, 1.0) / 2)
            return False
        finally:
            self._pool.shutdown()

    def _step(self, current: Snapshot, now: float, *, may_send: bool, code: int | None) -> None:
        """Never waits, unless the bucket does not answer. `code` is the script's, when it has ended."""
        try:
            if self._sending is not None:
                self._finish()
                return
            if now - self._looked < self._limits.look:
                return
            self._looked = now
            names = [file.name for file in self._storage.list()]
            if code == 0:
                self._is_complete = self._is_committed(names)
            folder = open_request(names, self._attempt, self._pod)
            if folder is None or self._is_complete:
                return
            target = self._storage.child(folder.name)
            request = Request.model_validate_json(target.read(REQUEST_FILE))
            self._asked = now if self._asked is None else self._asked
            writes_nothing = code is not None or now - self._asked >= self._limits.nothing
            is_there = is_answerable(request, newest_step(current), writes_nothing=writes_nothing)
            if may_send and (code == 0 if request.is_final else is_there):
                target.put_small(begun_file(self._pod), b"")
                self._send(folder, current)
        except (StorageError, OSError) as error:  # as above
            print(f"this pod's part of a checkpoint is not sent, which is tried again: {error}", flush=True)

    def _is_committed(self, names: list[str]) -> bool:
        """Whether the job's last checkpoint is there."""
        newest = next((each for each in Shelf.of(names).committed if each.attempt == self._attempt), None)
        return newest is not None and read_manifest(self._storage.child(newest.name)).is_final

    def _send(self, folder: CheckpointFolder, current: Snapshot) -> None:
        shutil.rmtree(self._staged, ignore_errors=True)
        current.link(self._source, self._staged)
        self._sending = (folder, current, self._pool.submit(self._upload, folder, tuple(current.files)))

    def _upload(self, folder: CheckpointFolder, names: tuple[str, ...]) -> tuple[FileEntry, ...]:
        target = self._storage.child(folder.name)
        retries = UploadRetries(UploadPatience())

        def upload(name: str) -> FileEntry:
            place = f"{folder_of_pod(self._pod)}{name}"
            stored = retries.run(lambda: target.upload(self._staged / name, place))
            return FileEntry(name=place, size=stored.size, sha256=stored.sha256)

        return tuple(upload(name) for name in names)

    def _finish(self) -> None:
        if self._sending is None or not self._sending[2].done():
            return
        (folder, sent, upload), self._sending = self._sending, None
        try:
            part = Part(files=upload.result(), resumed=self._resumed)
        except OSError as error:  # a file that was gone before it was linked
            print(f"this pod's part of a checkpoint is not sent: {error}", flush=True)
            return
        if not sent.is_unchanged_in(self._staged):
            print("a file of the script's folder was written in place while it was saved; it is sent again", flush=True)
            return
        self._storage.child(folder.name).put_small(part_file(self._pod), part.model_dump_json().encode())
        self._sent = sent
