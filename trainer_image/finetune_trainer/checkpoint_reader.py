"""Which checkpoint an attempt goes on from: the newest whose every byte is what its manifest says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.compatibility import Strategy, resume_obstacle
from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_names import CheckpointFolder, Shelf
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage
from finetune_trainer.storage_errors import StorageError, StorageRefused

PARALLEL_FILES: Final = 4

_Wanted = Callable[[Manifest], tuple[FileEntry, ...]]


@dataclass(frozen=True)
class Found:
    """What was found at the job's checkpoint location."""

    folder: CheckpointFolder | None
    """The checkpoint to go on from."""
    manifest: Manifest | None
    rejected: tuple[CheckpointFolder, ...]
    start: int
    """Which start of the attempt this is."""


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
    wanted: _Wanted | None = None,
) -> Found:
    """Download the newest checkpoint that verifies into `target`. Collective.

    The ranks of a pod share the download. A checkpoint that any of them finds damaged is skipped by all. Publish
    takes only the files that are `wanted` (no optimizer states), and does not care how many processes wrote them.

    Raises:
        TrainerFailure: There are checkpoints and every one is damaged: to start afresh would write the job's work over.
    """
    shelf = collective.broadcast(_shelf(storage) if place.is_first else None)
    if isinstance(shelf, TrainerFailure):
        raise shelf
    if shelf is None:
        raise AssertionError("rank 0 always says what it found")
    rejected: list[CheckpointFolder] = []
    damaged: list[str] = []
    start = shelf.next_start(attempt.attempt)

    def pass_over(folder: CheckpointFolder, problem: str, size: int = 0) -> None:
        uri = storage.child(folder.name).uri
        on_rejected(
            CheckpointEvent(
                attempt=attempt.attempt, step=folder.step, uri=uri, verified=False, bytes=size, problem=problem
            )
        )

    for folder in shelf.unfinished:
        if not shelf.committed or folder > shelf.committed[0]:
            pass_over(folder, "its manifest is not there: the upload was cut off")
    for folder in shelf.committed:
        if place.is_first_of_pod:
            shutil.rmtree(target, ignore_errors=True)
        collective.barrier()
        manifest, problem = _fetch(attempt, place, storage.child(folder.name), target, wanted)
        answers = collective.gather(problem)
        down = next((answer for answer in answers if isinstance(answer, TrainerFailure)), None)
        if down is not None:
            raise down
        problems = [answer for answer in answers if isinstance(answer, _Problem)]
        if not problems and manifest is not None:
            return Found(folder, manifest, tuple(rejected), start)
        rejected.append(folder)
        pass_over(folder, problems[0].text, manifest.total_bytes if manifest else 0)
        if problems[0].is_damage:
            damaged.append(f"{folder.name}: {problems[0].text}")
    if damaged:
        raise TrainerFailure(
            ExitCode.CHECKPOINTS_UNUSABLE,
            f"none of the job's checkpoints at {storage.uri} can be used ({'; '.join(damaged[:3])}), and nothing is written over them; "
            "delete the job and create it anew, which starts afresh beside them",
        )
    return Found(None, None, tuple(rejected), start)


def _shelf(storage: ObjectStorage) -> Shelf | TrainerFailure:
    try:
        return Shelf.of(file.name for file in storage.list())
    except StorageError as error:
        # Told to the other ranks, who would else wait for ever.
        return TrainerFailure(error.exit_code, str(error))


def _fetch(
    attempt: AttemptFile, place: Place, storage: ObjectStorage, target: Path, wanted: _Wanted | None
) -> tuple[Manifest | None, _Problem | TrainerFailure | None]:
    """Download this rank's share and return the manifest and the problem, if there is one."""
    try:
        manifest = read_manifest(storage)
        another = foreign(manifest, attempt)
        if another is not None:
            return manifest, _Problem(another)
        plan = attempt.plan
        reason = resume_obstacle(Strategy(manifest.strategy), manifest.world_size, plan.strategy, plan.processes)
        if reason is not None and wanted is None:
            if attempt.plan.replans:
                text = f"{reason}, because a GPU ran out of memory: it starts afresh"
                return manifest, _Problem(text, is_damage=False)
            return manifest, TrainerFailure(
                ExitCode.BAD_SPEC,
                f"the checkpoint at {storage.uri} cannot be resumed: {reason}; set resources back, or start a new job",
            )
        files = manifest.files if wanted is None else wanted(manifest)
        mine = files[place.local_rank :: place.local_world_size]
        difference = download_verified(storage, mine, target)
        return manifest, None if difference is None else _Problem(difference)
    except StorageRefused as error:
        if error.missing:
            return None, _Problem(f"{error.uri} is not there")
        return None, TrainerFailure(error.exit_code, str(error))
    except StorageError as error:
        return None, TrainerFailure(error.exit_code, str(error))
    except ValidationError as error:
        return None, _Problem(f"its manifest is not readable ({error.error_count()} problems)")


def read_manifest(storage: ObjectStorage) -> Manifest:
    """Return the manifest of a folder."""
    return Manifest.model_validate_json(storage.read(MANIFEST_FILE))


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
