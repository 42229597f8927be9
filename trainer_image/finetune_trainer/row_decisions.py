"""Which rows other models have left out (`filters.deduplicate: semantic`, `filters.judge`): decided once by the inspection, and read by training.

Vectors differ in their last bits from machine to machine, and a judge's mood from call to call: a row that is decided twice would be trained in one
attempt and not in the next. So the inspection writes the decisions beside its report, as numbers of rows in the order of reading, and the plan,
every attempt and the evaluation after it go by that file, whose digest is in the report.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InputFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rows import RowValue
from finetune_trainer.storage import ObjectStorage, open_storage
from finetune_trainer.storage_errors import StorageRefused

EVALUATION: Final = "evaluation of "
"""Before the number of a data set: the rows that it is evaluated on."""


class RowModels(Protocol):
    """What other models say of rows that the job's own filters leave in."""

    def reasons(self, values: Sequence[RowValue]) -> Sequence[str | None]:
        """Return why each row is left out, None for one that stays; called with the rows in order, some at a time."""
        ...


@dataclass
class Decisions:
    """Of one file of rows."""

    rows: int = 0
    """That were read, unusable ones too."""
    left_out: list[int] = field(default_factory=list)
    """Their numbers, from 0, ascending."""


def key_of(number: int, *, evaluation: bool) -> str:
    """Return the name of a data set's rows: its number in the spec, from 0."""
    return f"{EVALUATION}{number}" if evaluation else str(number)


def write_decisions(target: ObjectStorage, prefix: str, decisions: Mapping[str, Decisions]) -> InputFile:
    """Write all decisions of a job and return where they are; the etag is the SHA-256.

    The name has it too: another inspection, whose judge says otherwise, must not change what running jobs go by.
    """
    content = json.dumps(
        {key: {"rows": each.rows, "leftOut": each.left_out} for key, each in sorted(decisions.items())},
        separators=(",", ":"),
    ).encode()
    digest = hashlib.sha256(content).hexdigest()
    name = f"{prefix}-{digest[:16]}.json"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "decisions.json")
        path.write_bytes(content)
        target.upload(path, name)
    return InputFile(uri=target.child(name).uri, size=len(content), etag=digest)


@lru_cache(maxsize=1)
def read_decisions(file: InputFile) -> Mapping[str, Decisions]:
    """Return the decisions that the inspection has written.

    Raises:
        TrainerFailure: they are gone, or others.
    """
    folder, _, name = file.uri.rpartition("/")
    try:
        content = open_storage(folder).read(name)
    except StorageRefused as error:
        if not error.missing:
            raise
        raise TrainerFailure(
            ExitCode.INPUTS_CHANGED, f"which rows are learned from was decided in {file.uri}, and that is gone"
        ) from error
    if hashlib.sha256(content).hexdigest() != file.etag:
        raise TrainerFailure(
            ExitCode.INPUTS_CHANGED,
            f"which rows are learned from was decided in {file.uri}, and that is another file now",
        )
    return {key: Decisions(each["rows"], each["leftOut"]) for key, each in json.loads(content).items()}


def decisions_of(file: InputFile | None, key: str) -> Decisions | None:
    """Return what was decided about the rows of that name, None where nothing was."""
    return read_decisions(file).get(key) if file is not None else None
