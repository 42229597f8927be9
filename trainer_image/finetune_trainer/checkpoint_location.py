"""Where checkpoints lie: from the URI of a model, of a job's checkpoints or of one checkpoint to their folders and manifests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_trainer.checkpoint_names import CheckpointFolder, parse_folder
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage, open_writable

_PATH: Final = re.compile(r"^(?P<folder>(?:.*/)?step-\d{8,}/\d+(?:-\d+)?)/(?P<file>.+)$")


def read_manifest(storage: ObjectStorage) -> Manifest:
    """Return the manifest of a folder."""
    return Manifest.model_validate_json(storage.read(MANIFEST_FILE))


@dataclass(frozen=True)
class Located:
    """A checkpoint's folder, wherever below the given location it lies."""

    name: CheckpointFolder
    storage: ObjectStorage
    is_committed: bool

    @property
    def shelf(self) -> str:
        """The folder of all checkpoints of its job."""
        return self.storage.uri.removesuffix(f"/{self.name.name}")

    def manifest(self) -> Manifest | str:
        """Return its manifest, or why it cannot be read."""
        try:
            return read_manifest(self.storage)
        except ValidationError as error:
            return f"its manifest is not readable ({error.error_count()} problems)"


def locate(uri: str) -> tuple[Located, ...]:
    """Return the checkpoints at or below `uri`, the newest of each job first: a model's folder, a job's checkpoints, or one checkpoint.

    Raises:
        TrainerFailure: there is none, or none can be in such a place.
        StorageError: the store refuses, or does not answer.
    """
    if uri.startswith("hf://"):
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{uri}: checkpoints never lie on the hub; they are at a job's checkpoint.uri or output.uri: s3://, gs://, az:// or file://",
        )
    storage = open_writable(uri)
    files = [file.name for file in storage.list()]
    own = parse_folder("/".join(storage.uri.split("/")[-2:]))
    found = list(_below(storage, files))
    if own is not None and files:
        found = [Located(own, storage, MANIFEST_FILE in files)]
    if not found:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"{storage.uri}: no checkpoint is there or below; name a job's output.uri or checkpoint.uri",
        )
    return tuple(found)


def _below(storage: ObjectStorage, files: Iterable[str]) -> Iterator[Located]:
    seen: dict[str, bool] = {}
    for file in files:
        if match := _PATH.match(file):
            seen[match["folder"]] = seen.get(match["folder"], False) or match["file"] == MANIFEST_FILE
    shelves: dict[str, list[tuple[CheckpointFolder, str]]] = {}
    for path in seen:
        parts = path.split("/")
        name = parse_folder("/".join(parts[-2:]))
        if name is not None:
            shelves.setdefault("/".join(parts[:-2]), []).append((name, path))
    for shelf in sorted(shelves):
        for name, path in sorted(shelves[shelf], reverse=True):
            yield Located(name, storage.child(path), seen[path])
