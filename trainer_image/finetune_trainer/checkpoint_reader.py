"""Which checkpoint an attempt goes on from: the newest whose every byte is what its manifest says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from pydantic import ValidationError

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.recipe import recipe_of
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_location import read_manifest
from finetune_trainer.checkpoint_names import CheckpointFolder, Shelf
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.resume_source import FIELD, obstacle_for, obstacle_of, source_checkpoints
from finetune_trainer.storage import ObjectStorage, open_writable
from finetune_trainer.storage_errors import StorageError, StorageRefused

PARALLEL_FILES: Final = 4

_T = TypeVar("_T")
Wanted = Callable[[Manifest], tuple[FileEntry, ...]]


@dataclass(frozen=True)
class Found:
    """What an attempt goes on from."""

    folder: CheckpointFolder | None
    """The job's own checkpoint to go on from."""
    manifest: Manifest | None
    """None where it starts afresh."""
    rejected: tuple[CheckpointFolder, ...]
    """The job's own checkpoints that were passed over."""
    start: int
    """Which start of the attempt this is."""
    uri: str | None = None
    """The folder of the checkpoint, the job's own or the one that checkpoint.resumeFrom names."""


@dataclass(frozen=True)
class _Problem:
    """Why a checkpoint is passed over."""

    text: str
    is_damage: bool = True
    """It is not what was written; else it is whole, and of no use to this plan."""


def find_checkpoint(
    attempt: AttemptFile,
    place: Place,
    storage: ObjectStorage,
    collective: Collective,
    target: Path,
    *,
    on_rejected: Callable[[CheckpointEvent], None],
    wanted: Wanted | None = None,
) -> Found:
    """Download the newest checkpoint that verifies into `target`. Collective.

    The ranks of a pod share the download. A checkpoint that any of them finds damaged is skipped by all. While the job has none of its own, those
    that checkpoint.resumeFrom names are looked at. Publish takes only the files that are `wanted` (no optimizer states) of the job's own, and does
    not care how many processes wrote them.

    Raises:
        TrainerFailure: There are checkpoints and every one is damaged: to start afresh would write the job's work over. Or none that
            checkpoint.resumeFrom names can be used.
    """
    shelf = _agreed(place, collective, lambda: Shelf.of(file.name for file in storage.list()))
    start = shelf.next_start(attempt.attempt)
    search = _Search(attempt, place, collective, target, on_rejected, wanted)
    for folder in shelf.unfinished:
        if not shelf.committed or folder > shelf.committed[0]:
            search.pass_over(
                folder, storage.child(folder.name).uri, "its manifest is not there: the upload was cut off"
            )
    own = [(folder, storage.child(folder.name)) for folder in shelf.committed]
    found = search.first_whole(own, _own_problem)
    if found is not None:
        return replace(found, rejected=tuple(search.rejected), start=start)
    if search.damaged:
        raise TrainerFailure(
            ExitCode.CHECKPOINTS_UNUSABLE,
            f"none of the job's checkpoints at {storage.uri} can be used ({'; '.join(search.damaged[:3])}), and nothing is written over them; "
            "delete the job and create it anew, which starts afresh beside them, or from a checkpoint that checkpoint.resumeFrom names",
        )
    rejected = tuple(search.rejected)
    if attempt.spec.checkpoint.resume_from is None or wanted is not None:
        return Found(None, None, rejected, start)
    return replace(_from_another_job(attempt, place, collective, search), folder=None, rejected=rejected, start=start)


def _from_another_job(attempt: AttemptFile, place: Place, collective: Collective, search: _Search) -> Found:
    """Return the checkpoint that the inspection has chosen, or when it does not verify an older one of that job."""
    uri, point = attempt.spec.checkpoint.resume_from or "", attempt.inspection.resume
    listed = _agreed(
        place,
        collective,
        lambda: [(each.name, each.storage.uri) for each in source_checkpoints(uri)],
    )
    names = {where: name for name, where in listed}
    chosen = names.get(point.uri) if point is not None else None
    candidates = [(name, open_writable(where)) for name, where in listed if chosen is None or name <= chosen]
    search.damaged.clear()
    found = search.first_whole(candidates, _source_problem)
    if found is None:
        raise TrainerFailure(
            ExitCode.CHECKPOINTS_UNUSABLE,
            f"{FIELD}: no checkpoint at {uri} can be used ({'; '.join(search.damaged[:3])}); delete the job and create it anew, with another "
            f"{FIELD} or without",
        )
    return found


class _Check(Protocol):
    """Whether a manifest is one that the attempt can go on from, before anything is downloaded."""

    def __call__(
        self, manifest: Manifest, uri: str, attempt: AttemptFile, *, is_for_training: bool
    ) -> _Problem | TrainerFailure | None: ...


class _Search:
    """Looks at checkpoints one after the other, on all ranks at once."""

    def __init__(
        self,
        attempt: AttemptFile,
        place: Place,
        collective: Collective,
        target: Path,
        on_rejected: Callable[[CheckpointEvent], None],
        wanted: Wanted | None,
    ) -> None:
        self._attempt, self._place, self._collective, self._target = attempt, place, collective, target
        self._on_rejected, self._wanted = on_rejected, wanted
        self.rejected: list[CheckpointFolder] = []
        self.damaged: list[str] = []

    def pass_over(self, folder: CheckpointFolder, uri: str, problem: str, size: int = 0) -> None:
        """Tell that a checkpoint is not used."""
        self._on_rejected(
            CheckpointEvent(
                attempt=self._attempt.attempt, step=folder.step, uri=uri, verified=False, bytes=size, problem=problem
            )
        )

    def first_whole(self, candidates: Iterable[tuple[CheckpointFolder, ObjectStorage]], check: _Check) -> Found | None:
        """Download the first one in which every rank finds every byte as it was written; None when there is none. Collective."""
        for folder, storage in candidates:
            if self._place.is_first_of_pod:
                shutil.rmtree(self._target, ignore_errors=True)
            self._collective.barrier()
            manifest, problem = self._fetch(storage, check)
            answers = self._collective.gather(problem)
            down = next((answer for answer in answers if isinstance(answer, TrainerFailure)), None)
            if down is not None:
                raise down
            problems = [answer for answer in answers if isinstance(answer, _Problem)]
            if not problems and manifest is not None:
                return Found(folder, manifest, (), 0, storage.uri)
            self.rejected.append(folder)
            self.pass_over(folder, storage.uri, problems[0].text, manifest.total_bytes if manifest else 0)
            if problems[0].is_damage:
                self.damaged.append(f"{folder.name}: {problems[0].text}")
        return None

    def _fetch(self, storage: ObjectStorage, check: _Check) -> tuple[Manifest | None, _Problem | TrainerFailure | None]:
        """Download this rank's share and return the manifest and the problem, if there is one."""
        place, wanted = self._place, self._wanted
        try:
            manifest = read_manifest(storage)
            problem = check(manifest, storage.uri, self._attempt, is_for_training=wanted is None)
            if problem is not None:
                return manifest, problem
            files = manifest.files if wanted is None else wanted(manifest)
            mine = files[place.local_rank :: place.local_world_size]
            difference = download_verified(storage, mine, self._target)
            return manifest, None if difference is None else _Problem(difference)
        except StorageRefused as error:
            if error.missing:
                return None, _Problem(f"{error.uri} is not there")
            return None, TrainerFailure(error.exit_code, str(error))
        except StorageError as error:
            return None, TrainerFailure(error.exit_code, str(error))
        except ValidationError as error:
            return None, _Problem(f"its manifest is not readable ({error.error_count()} problems)")


def _agreed(place: Place, collective: Collective, look: Callable[[], _T]) -> _T:
    """Return what rank 0 sees, on every rank; its failure is told to the others, who would else wait for ever."""
    seen: _T | TrainerFailure | None = None
    if place.is_first:
        try:
            seen = look()
        except StorageError as error:
            seen = TrainerFailure(error.exit_code, str(error))
        except TrainerFailure as error:
            seen = error
    seen = collective.broadcast(seen)
    if isinstance(seen, TrainerFailure):
        raise seen
    if seen is None:
        raise AssertionError("rank 0 always says what it found")
    return seen


def _own_problem(
    manifest: Manifest, uri: str, attempt: AttemptFile, *, is_for_training: bool
) -> _Problem | TrainerFailure | None:
    another = foreign(manifest, attempt)
    if another is not None:
        return _Problem(another)
    plan = attempt.plan
    reason = obstacle_for(manifest, plan)
    if reason is None or not is_for_training:
        return None
    if plan.replans:
        return _Problem(f"{reason}, because a GPU ran out of memory: it starts afresh", is_damage=False)
    return TrainerFailure(
        ExitCode.BAD_SPEC,
        f"the checkpoint at {uri} cannot be resumed: {reason}; set resources back, or start a new job",
    )


def _source_problem(
    manifest: Manifest, uri: str, attempt: AttemptFile, *, is_for_training: bool
) -> TrainerFailure | None:
    recipe = recipe_of(attempt.spec, attempt.inspection.model, attempt.inspection.reward_files)
    reason = obstacle_of(manifest, attempt.spec, recipe, attempt.plan)
    return None if reason is None else TrainerFailure(ExitCode.BAD_SPEC, f"{FIELD}: {uri} cannot be used: {reason}")


def foreign(manifest: Manifest, attempt: AttemptFile) -> str | None:
    """Return why a manifest is not this job's, None when it is."""
    if manifest.uid != attempt.uid:
        return f"it belongs to another job ({manifest.namespace}/{manifest.job}, uid {manifest.uid})"
    return None


def download_verified(storage: ObjectStorage, files: tuple[FileEntry, ...], target: Path) -> str | None:
    """Download files and compare every byte's digest with the manifest; returns the first difference."""

    def fetch(entry: FileEntry) -> str | None:
        stored = storage.download(entry.name, target / entry.name)
        if stored.size != entry.size:
            return f"{entry.name} has {stored.size} bytes instead of {entry.size}"
        return None if stored.sha256 == entry.sha256 else f"{entry.name} has another SHA-256 than its manifest says"

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="verify") as pool:
        return next((problem for problem in pool.map(fetch, files) if problem), None)
