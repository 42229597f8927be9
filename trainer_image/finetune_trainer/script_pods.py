"""How the pods of a user's own script make one checkpoint of their folders: by files in the bucket, for our containers share nothing else.

The first pod says which step it has saved (`wanted.json`). Every other one whose folder is of that step sends its own files below `pod-<index>/` and
then says so (`pod-<index>.json`). The first one writes the manifest when all have; without it nothing of the checkpoint exists. A file belongs to
the pod that wrote it. At the start of an attempt every pod gets the files of all, so that shards can be put together; where several pods wrote one
of the same name, a pod gets its own, else the first one's.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.manifest import FileEntry
from finetune_trainer.checkpoint_names import CheckpointFolder, parse_folder
from finetune_trainer.script_folder import Snapshot, look

REQUEST_FILE: Final = "wanted.json"
_OF_POD: Final = re.compile(r"^pod-(\d+)/(.+)$")


class Request(BaseModel):
    """What the first pod asks the others for."""

    model_config = ConfigDict(frozen=True)

    newest: int | None
    """The highest number in its folder; None where its script numbers nothing."""
    is_final: bool
    """Its script has ended well: the others send what theirs have left at their end."""


class Part(BaseModel):
    """What another pod has sent."""

    model_config = ConfigDict(frozen=True)

    files: tuple[FileEntry, ...]
    """By their names in the checkpoint."""
    resumed: int | None
    """The step that this pod has gone on from."""


def begun_file(pod: int) -> str:
    """Return the name of the file by which a pod says that it sends its part."""
    return f"pod-{pod}.begun"


def part_file(pod: int) -> str:
    """Return the name of the file by which a pod says that it has sent its part."""
    return f"pod-{pod}.json"


def folder_of_pod(pod: int) -> str:
    """Return where a pod's files lie in a checkpoint; those of the first one lie at its top, as a single pod's do."""
    return f"pod-{pod}/" if pod else ""


def owner_of(name: str) -> tuple[int, str]:
    """Return which pod a checkpoint's file is of, and its path in that pod's folder."""
    found = _OF_POD.match(name)
    return (int(found[1]), found[2]) if found else (0, name)


def open_request(names: Iterable[str], attempt: int, pod: int) -> CheckpointFolder | None:
    """Return the newest checkpoint that the first pod asks for, None where this pod has sent its part of it or it is committed.

    `names` are all files below the job's checkpoints. A request that an earlier start of the attempt left may be answered in vain; it never keeps
    one that was made since from being answered.
    """
    files: dict[CheckpointFolder, set[str]] = {}
    for name in names:
        folder = parse_folder("/".join(name.split("/")[:2]))
        if folder is not None and folder.attempt == attempt:
            files.setdefault(folder, set()).add(name.removeprefix(f"{folder.name}/"))
    asked = [folder for folder, found in files.items() if REQUEST_FILE in found]
    newest = max(asked, key=lambda folder: (folder.start, folder.step), default=None)
    if newest is None or not files[newest].isdisjoint((MANIFEST_FILE, part_file(pod))):
        return None
    return newest


def is_answerable(request: Request, own: int | None, *, writes_nothing: bool) -> bool:
    """Whether a pod whose highest number is `own` is at the step that is asked for; without one it must be known that its script writes nothing."""
    if request.newest is None:
        return True
    return writes_nothing if own is None else request.newest == own


def share_out(checkpoint: Path, folder: Path, pod: int, pods: int) -> Snapshot:
    """Move a downloaded checkpoint to a pod's folder and return those files in it that are another pod's, and so are not this one's to save.

    Where the job had more pods before, what the missing ones had is the first pod's.
    """
    chosen: dict[str, int] = {}
    for name in look(checkpoint).files:
        owner, path = owner_of(name)
        if path not in chosen or owner == pod or (owner < chosen[path] and chosen[path] != pod):
            chosen[path] = owner
    for path, owner in chosen.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(checkpoint / f"{folder_of_pod(owner)}{path}", target)
    shutil.rmtree(checkpoint)
    others = {path for path, owner in chosen.items() if (owner if owner < pods else 0) != pod}
    return Snapshot({path: seen for path, seen in look(folder).files.items() if path in others})
