"""Names of checkpoints, their order, who uploads what and which ones are deleted: pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_trainer.attempt import Place

_FOLDER: Final = re.compile(r"^step-(\d{8,})/(\d+)(?:-(\d+))?$")


@dataclass(frozen=True, order=True)
class CheckpointFolder:
    """The folder of one checkpoint below the job's checkpoint location; the newest is the greatest."""

    step: int
    attempt: int
    start: int
    """Which start of the attempt wrote it, from 1: a suspended attempt starts again, and must not write over what it left."""

    @property
    def name(self) -> str:
        """Path relative to the job's checkpoint location."""
        suffix = "" if self.start == 1 else f"-{self.start}"
        return f"step-{self.step:08d}/{self.attempt}{suffix}"


def parse_folder(name: str) -> CheckpointFolder | None:
    """Return the folder of that name; None when it is no checkpoint's."""
    found = _FOLDER.match(name.strip("/"))
    return CheckpointFolder(int(found[1]), int(found[2]), int(found[3] or "1")) if found else None


@dataclass(frozen=True)
class Shelf:
    """What lies below the job's checkpoint location."""

    committed: tuple[CheckpointFolder, ...]
    """With a manifest, newest first."""
    unfinished: tuple[CheckpointFolder, ...]
    """Without one: an upload that was cut off."""

    @classmethod
    def of(cls, names: Iterable[str]) -> Shelf:
        """Sort the names of all files below the location."""
        seen: dict[CheckpointFolder, bool] = {}
        for name in names:
            folder = parse_folder("/".join(name.split("/")[:2]))
            if folder is not None:
                is_manifest = name == f"{folder.name}/{MANIFEST_FILE}"
                seen[folder] = seen.get(folder, False) or is_manifest
        ordered = sorted(seen, reverse=True)
        return cls(
            tuple(folder for folder in ordered if seen[folder]),
            tuple(folder for folder in ordered if not seen[folder]),
        )

    def next_start(self, attempt: int) -> int:
        """Return which start of the attempt this is, judged by what earlier ones wrote."""
        starts = [folder.start for folder in (*self.committed, *self.unfinished) if folder.attempt == attempt]
        return max(starts, default=0) + 1


def superfluous(
    shelf: Shelf, *, verified: Collection[CheckpointFolder], rejected: Collection[CheckpointFolder], keep: int
) -> tuple[CheckpointFolder, ...]:
    """Return the folders to delete once the newest of `verified` is committed.

    Kept are the `keep` newest that were not rejected, whatever is newer than the newest verified one, and that one itself. So nothing is
    deleted while nothing has been verified.
    """
    if not verified:
        return ()
    newest = max(verified)
    kept = {folder for folder in shelf.committed if folder not in rejected and folder <= newest}
    kept = set(sorted(kept, reverse=True)[:keep]) | {newest}
    return tuple(folder for folder in (*shelf.committed, *shelf.unfinished) if folder < newest and folder not in kept)


def share(names_by_rank: Sequence[tuple[int, Collection[str]]], place: Place) -> tuple[str, ...]:
    """Return the files that this rank uploads.

    `names_by_rank` has each rank's pod and the files on that pod's disk. A file that lies in several pods is uploaded by the first of
    them, and the ranks of a pod share its files evenly.
    """
    owner: dict[str, int] = {}
    for pod, names in names_by_rank:
        for name in names:
            owner[name] = min(pod, owner.get(name, pod))
    own = sorted(name for name, pod in owner.items() if pod == place.pod)
    return tuple(own[place.local_rank :: place.local_world_size])
