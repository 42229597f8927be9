"""What a script's folder holds at a moment: names, sizes and times, which tell whether somebody writes to it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

UNFINISHED: Final = "checkpoint-is-incomplete.txt"
"""transformers 5.23 keeps a file of this name in a checkpoint while it writes it at SIGTERM; any script may."""
_NUMBERED: Final = re.compile(r"(?:^|/)(?:checkpoint|step|global_step|epoch|iter)[-_]?0*(\d+)(?:/|$)")


@dataclass(frozen=True)
class Snapshot:
    """Files by their path relative to the folder, each with its size in bytes and its modification time in nanoseconds."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Nothing in it says that it is being written."""
        return not any(name.rsplit("/", 1)[-1] == UNFINISHED for name in self.files)

    def without(self, others: Snapshot) -> Snapshot:
        """Return the files that are not as they are in `others`."""
        return Snapshot({name: seen for name, seen in self.files.items() if others.files.get(name) != seen})

    def link(self, source: Path, target: Path) -> None:
        """Make `target` a folder of the same files, by hard links; one that is gone meanwhile is left out."""
        target.mkdir(parents=True)
        for name in self.files:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / name, path)
            except FileNotFoundError:
                continue

    def is_unchanged_in(self, folder: Path) -> bool:
        """Whether a folder that was linked has exactly these files still, as they were."""
        return look(folder).files == self.files


def look(folder: Path) -> Snapshot:
    """Return what a folder holds now."""
    files: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        try:
            if path.is_file() and not path.is_symlink():
                seen = path.stat()
                files[str(path.relative_to(folder))] = (seen.st_size, seen.st_mtime_ns)
        except FileNotFoundError:
            continue
    return Snapshot(files)


def newest_step(snapshot: Snapshot) -> int | None:
    """Return the highest number that a folder is named by, as in checkpoint-200, step_200 or global_step200; None where none is."""
    return max((int(found[1]) for name in snapshot.files for found in _NUMBERED.finditer(name)), default=None)
