"""A stored file as the formats read it: in pieces from its start, or by ranges like a file that can seek."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Final

from typing_extensions import Buffer

from finetune_trainer.storage_interface import Storage, StoredFile

READ_BYTES: Final = 8 * 1024**2


class StoredContent(io.RawIOBase):
    """A stored file that can seek: each read is one range request. Its first error is kept, for Arrow tells it in words of its own."""

    def __init__(self, storage: Storage, file: StoredFile) -> None:
        self._storage, self._file = storage, file
        self._position = 0
        self.problem: Exception | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, all that are left without a size."""
        end = self._file.size if size < 0 else min(self._position + size, self._file.size)
        if end <= self._position:
            return b""
        try:
            data = self._storage.read_range(self._file.name, self._position, end)
        except Exception as error:
            self.problem = self.problem or error
            raise
        self._position += len(data)
        return data

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class Pieces(io.RawIOBase):
    """Content that comes in pieces, as a file that is read from its start to its end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self.problem: Exception | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer as far as the present piece goes."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
            except Exception as error:
                self.problem = self.problem or error
                raise
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
