"""Which format a file has, and its rows: by its first bytes where they tell, else by the extension of its name.

A name that promises what the content is not is an error: such a file was cut short, or is the error page of a download.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import chain
from typing import Final

from finetune_trainer.file_formats.compression import EXTENSIONS, Compression, compression_of, decompressed
from finetune_trainer.file_formats.csv_rows import read_csv
from finetune_trainer.file_formats.json_array import read_array
from finetune_trainer.file_formats.lines import BYTE_ORDER_MARK, BrokenFile, Line, read_lines
from finetune_trainer.storage_interface import Storage, StoredFile

PARQUET_MARK: Final = b"PAR1"
ARROW_MARK: Final = b"ARROW1"
STREAM_MARK: Final = b"\xff\xff\xff\xff"
SNIFFED_BYTES: Final = 64 * 1024
"""White space before a JSON text may be longer; then it is read as JSONL."""


class FileFormat(StrEnum):
    """How rows are written in a file."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"
    ARROW_STREAM = "arrow-stream"


_BY_EXTENSION: Final = {
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.TSV,
}
_REFUSED: Final = {
    b"PK\x03\x04": ("a zip archive (or a spreadsheet)", "unpack it, or compress each file alone with gzip or zstd"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it, or compress each file alone with gzip or zstd"),
    b"FEA1": ("Feather version 1", "write it as version 2 (pyarrow.feather.write_feather)"),
    b"Obj\x01": ("Avro", "write it as JSONL or Parquet"),
    b"ORC": ("ORC", "write it as JSONL or Parquet"),
    b"SQLite format 3": ("an SQLite data base", "export it as CSV"),
    b"\xff\xfe": ("UTF-16 text", "write it in UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "write it in UTF-8"),
}
_TAR_MARK: Final = (257, b"ustar")


def read_file(storage: Storage, file: StoredFile) -> Iterator[Line]:
    """Yield the rows of a stored file, whatever its format.

    Raises:
        BrokenFile: It cannot be read to its end, or has a format that is not read at all.
    """
    name, first = file.name, storage.read_range(file.name, 0, min(SNIFFED_BYTES, file.size)) if file.size else b""
    compression = compression_of(first)
    if compression is None:
        promised = next((kind for ending, kind in EXTENSIONS.items() if name.endswith(ending)), None)
        if promised is not None and first:
            raise BrokenFile(name, f"it is not {promised}, as its name says", "rename it, or write it again")
        kind = format_of(name, first)
        if kind in (FileFormat.PARQUET, FileFormat.ARROW):
            from finetune_trainer.file_formats import arrow_rows  # Arrow takes 0.3 s and 40 MiB that text does without

            read = arrow_rows.read_parquet if kind is FileFormat.PARQUET else arrow_rows.read_arrow_file
            return read(storage, file)
        return _read_pieces(name, storage.stream(name), kind)
    return _read_compressed(name, storage.stream(name), compression)


def _read_compressed(name: str, chunks: Iterable[bytes], compression: Compression) -> Iterator[Line]:
    content = decompressed(name, chunks, compression)
    first = next(content, b"")
    if compression_of(first) is not None:
        raise BrokenFile(name, "it is compressed twice, or an archive that contains itself", "compress it once")
    inner = name
    for ending in EXTENSIONS:
        inner = inner.removesuffix(ending)
    kind = format_of(inner, first, name)
    if kind in (FileFormat.PARQUET, FileFormat.ARROW):
        problem = f"it is {kind} in {compression}, and {kind} is read by ranges"
        raise BrokenFile(name, problem, "decompress it: such files are compressed inside")
    yield from _read_pieces(name, chain((first,), content), kind)


def _read_pieces(name: str, chunks: Iterable[bytes], kind: FileFormat) -> Iterator[Line]:
    if kind is FileFormat.CSV:
        return read_csv(name, chunks)
    if kind is FileFormat.TSV:
        return read_csv(name, chunks, "\t")
    if kind is FileFormat.JSON:
        return read_array(name, chunks)
    if kind is FileFormat.ARROW_STREAM:
        from finetune_trainer.file_formats.arrow_rows import read_arrow_stream

        return read_arrow_stream(name, chunks)
    return read_lines(name, chunks)


def format_of(name: str, first: bytes, shown: str | None = None) -> FileFormat:
    """Return the format of a file of this name whose content begins with these bytes (BrokenFile where it is one that is not read)."""
    for mark, (what, remedy) in _REFUSED.items():
        if first.startswith(mark):
            raise BrokenFile(shown or name, f"it is {what}", remedy)
    offset, mark = _TAR_MARK
    if first[offset : offset + len(mark)] == mark:
        raise BrokenFile(shown or name, "it is a tar archive", "unpack it; a * in dataset.uri reads several files")
    by_mark = _by_mark(first)
    if by_mark is not None:
        return by_mark
    lowered = name.lower()
    if lowered.endswith((".parquet", ".arrow", ".feather")) and first:
        raise BrokenFile(shown or name, f"it is not {lowered.rpartition('.')[2]}, as its name says", "write it again")
    by_extension = next((kind for ending, kind in _BY_EXTENSION.items() if lowered.endswith(ending)), None)
    if by_extension is not None:
        return by_extension
    return FileFormat.JSON if first.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"[" else FileFormat.JSONL


def _by_mark(first: bytes) -> FileFormat | None:
    if first.startswith(PARQUET_MARK):
        return FileFormat.PARQUET
    if first.startswith(ARROW_MARK):
        return FileFormat.ARROW
    return FileFormat.ARROW_STREAM if first.startswith(STREAM_MARK) else None
