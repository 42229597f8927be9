"""The readers of Parquet and of Arrow (Feather version 2, and the stream format that `datasets` caches in), by ranges, batch by batch.

Memory holds a Parquet page of each column, or a record batch of an Arrow file, whatever the size of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from finetune_trainer.file_formats.content import READ_BYTES, Pieces, StoredContent
from finetune_trainer.file_formats.lines import BrokenFile, Line
from finetune_trainer.storage_interface import Storage, StoredFile

ROWS_AT_ONCE: Final = 1000
BYTES_AT_ONCE: Final = 16 * 1024**2
"""A batch ends at either: rows of a megabyte come a few at a time."""
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, EOFError)


def read_parquet(storage: Storage, file: StoredFile) -> Iterator[Line]:
    """Yield the rows of a Parquet file; the number of a row counts from 1.

    Raises:
        BrokenFile: It is damaged, cut short or encrypted.
    """
    content = StoredContent(storage, file)
    yield from _rows(file.name, "Parquet", content, lambda: _parquet_batches(content))


def _parquet_batches(content: StoredContent) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    # pre_buffer would fetch a whole row group, often 1 GiB, and buffer_size=0 a whole column of it.
    source = parquet.ParquetFile(pa.PythonFile(content, mode="r"), pre_buffer=False, buffer_size=READ_BYTES)
    metadata = source.metadata
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    row_bytes = max(1, size // max(1, metadata.num_rows))
    yield from source.iter_batches(batch_size=max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // row_bytes)))


def read_arrow_file(storage: Storage, file: StoredFile) -> Iterator[Line]:
    """Yield the rows of an Arrow file, which is Feather version 2 (BrokenFile as for Parquet)."""
    content = StoredContent(storage, file)

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.ipc.open_file(pa.PythonFile(content, mode="r")) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)

    yield from _rows(file.name, "Arrow", content, batches)


def read_arrow_stream(file: str, chunks: Iterable[bytes]) -> Iterator[Line]:
    """Yield the rows of an Arrow stream (BrokenFile as for Parquet)."""
    pieces = Pieces(chunks)

    def batches() -> Iterator[pa.RecordBatch]:
        source = pa.PythonFile(io.BufferedReader(pieces, READ_BYTES), mode="r")
        with pa.ipc.open_stream(source) as reader:
            yield from reader

    yield from _rows(file, "Arrow stream", pieces, batches)


def _rows(
    file: str, kind: str, content: StoredContent | Pieces, batches: Callable[[], Iterator[pa.RecordBatch]]
) -> Iterator[Line]:
    number = 0
    found = batches()
    while True:
        try:
            batch = next(found, None)
        except _UNREADABLE as error:
            if content.problem is not None:
                raise content.problem from None
            problem = f"its {kind} is damaged, cut short, encrypted or of an unknown make ({type(error).__name__})"
            raise BrokenFile(file, problem, "write it again") from None
        if batch is None:
            return
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            for value in _values(batch.slice(start, ROWS_AT_ONCE)):
                number += 1
                if isinstance(value, str):
                    yield Line(file, number, None, value)
                else:
                    yield Line(file, number, value)


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """Return the batch's rows, or of those that Python cannot hold the problem."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        if batch.num_rows == 1:
            return ["it has text that is not UTF-8, or a number or date that is too large"]
        middle = batch.num_rows // 2
        return [*_values(batch.slice(0, middle)), *_values(batch.slice(middle))]
