"""Compressed files: one layer is taken off while they are read, however much comes out of it.

Nothing here asks what is inside, so an archive that contains itself ends as a file that is compressed twice. Decompressors are asked for a
bounded piece at a time: what is 1,000 times smaller than its content costs time, not memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

from finetune_trainer.file_formats.content import READ_BYTES, Pieces
from finetune_trainer.file_formats.lines import BrokenFile


class Compression(StrEnum):
    """How a file's content is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"
    BZ2 = "bz2"
    XZ = "xz"


EXTENSIONS: Final = {
    ".gz": Compression.GZIP,
    ".zst": Compression.ZSTD,
    ".bz2": Compression.BZ2,
    ".xz": Compression.XZ,
}
_FIRST_BYTES: Final = {
    Compression.GZIP: b"\x1f\x8b",
    Compression.ZSTD: b"\x28\xb5\x2f\xfd",
    Compression.BZ2: b"BZh",
    Compression.XZ: b"\xfd7zXZ\x00",
}
_BROKEN: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)


def compression_of(first: bytes) -> Compression | None:
    """Return how content that begins with these bytes is compressed."""
    return next((kind for kind, mark in _FIRST_BYTES.items() if first.startswith(mark)), None)


def decompressed(file: str, chunks: Iterable[bytes], kind: Compression) -> Iterator[bytes]:
    """Yield what is inside, in pieces of at most READ_BYTES.

    Raises:
        BrokenFile: The content is damaged or cut short.
    """
    pieces = Pieces(chunks)
    try:
        source = _opened(pieces, kind)
        while data := bytes(source.read(READ_BYTES)):
            yield data
    except _BROKEN as error:
        if pieces.problem is not None:
            raise pieces.problem from None
        raise BrokenFile(
            file, f"its {kind} is damaged or cut short ({type(error).__name__})", "write it again"
        ) from None


def _opened(pieces: Pieces, kind: Compression) -> Any:
    buffered = io.BufferedReader(pieces, READ_BYTES)
    if kind is Compression.GZIP:
        return gzip.GzipFile(fileobj=buffered)
    if kind is Compression.BZ2:
        return bz2.BZ2File(buffered)
    if kind is Compression.XZ:
        return lzma.LZMAFile(buffered)
    import pyarrow as pa  # only zstd needs it

    return pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), "zstd")
