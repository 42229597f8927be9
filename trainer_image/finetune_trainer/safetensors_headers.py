"""What a safetensors file says about its tensors: the header at its start is enough, the weights are never read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import Storage, StoredFile

FIRST_READ_BYTES: Final = 256 * 1024
"""One request gets the headers of nearly all files: 300 tensors take about 30 KiB."""
HEADER_LIMIT_BYTES: Final = 100_000_000
"""The format's own limit."""


@dataclass(frozen=True)
class TensorFacts:
    """The tensors of one file, counted."""

    names: frozenset[str]
    elements: int
    stored_bytes: int
    dtypes: Counter[str]


def read_header(storage: Storage, file: StoredFile) -> TensorFacts:
    """Return what the header of one file says; a file that is cut short or is none is named."""
    start = storage.read_range(file.name, 0, min(FIRST_READ_BYTES, file.size))
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > HEADER_LIMIT_BYTES or 8 + length > file.size:
        raise _broken(file, "it is cut short, or is not in the safetensors format")
    raw = start[8 : 8 + length]
    if len(raw) < length:
        raw += storage.read_range(file.name, len(start), 8 + length)
    try:
        header = json.loads(raw)
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        ends = [int(value["data_offsets"][1]) for value in tensors.values()]
        dtypes: Counter[str] = Counter()
        for value in tensors.values():
            dtypes[str(value["dtype"])] += prod(int(size) for size in value["shape"])
        stored = sum(int(value["data_offsets"][1]) - int(value["data_offsets"][0]) for value in tensors.values())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise _broken(file, "its header cannot be read") from None
    expected = 8 + length + max(ends, default=0)
    if expected != file.size:
        raise _broken(file, f"its header speaks of {expected} bytes, the file has {file.size}")
    return TensorFacts(frozenset(tensors), sum(dtypes.values()), stored, dtypes)


def _broken(file: StoredFile, problem: str) -> TrainerFailure:
    return TrainerFailure(ExitCode.BAD_DATA, f"{file.uri}: {problem}; upload the file again")
