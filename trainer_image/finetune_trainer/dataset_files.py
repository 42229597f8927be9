"""The files of a data set in the order of their names: the one way in for inspect and train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InputFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.file_formats.formats import read_file
from finetune_trainer.file_formats.lines import Line
from finetune_trainer.storage import Storage, StoredFile, open_storage
from finetune_trainer.storage_location import matches, split_pattern


@dataclass(frozen=True)
class DatasetFiles:
    """Files that were found, and where to read them."""

    storage: Storage
    found: tuple[StoredFile, ...]

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        """What the inspection records, so that train can tell whether they have changed."""
        return tuple(InputFile(uri=file.uri, size=file.size, etag=file.etag) for file in self.found)

    def lines(self) -> Iterator[Line]:
        """Yield the rows of all files, as far as they are asked for."""
        for file in self.found:
            yield from read_file(self.storage, file)


def find_files(uri: str) -> DatasetFiles:
    """Return the file at `uri`, or all files that its pattern matches."""
    folder, pattern = split_pattern(uri)
    storage = open_storage(folder)
    if "*" not in pattern:
        return DatasetFiles(storage, (storage.head(pattern),))
    found = tuple(file for file in storage.list() if matches(file.name, pattern))
    if not found:
        raise TrainerFailure(ExitCode.NOT_FOUND, f"dataset.uri {uri} matches no file; check the pattern")
    return DatasetFiles(storage, found)
