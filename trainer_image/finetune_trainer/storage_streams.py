"""Content in pieces: read ahead in order with bounded memory, and written to a local file that appears only when it is complete."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from finetune_trainer.storage_interface import Stored

MEBIBYTE: Final = 1024**2
READ_RANGE_BYTES: Final = 16 * MEBIBYTE
READ_AHEAD: Final = 3
"""Ranges that are fetched while an earlier one is used: at most 4 × 16 MiB in memory."""
WRITE_BYTES: Final = 4 * MEBIBYTE
"""What is hashed and handed on at once: a piece that still lies in the processor's cache the second time."""


class _Target(Protocol):
    def write(self, data: Any, /) -> int: ...
    def close(self) -> None: ...


class HashingSink:
    """Takes bytes in order, hashes them and hands them on. Its first error is kept for `close`; what comes after it is dropped."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._size = 0
        self._problem: Exception | None = None

    def write(self, data: Any, /) -> int:
        """Take a bytes-like object and return its length."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), WRITE_BYTES):
            if self._problem is not None:
                break
            # obstore 0.12 keeps what it is given, unread, until a part is sent; torch.save uses its memory again at once.
            piece = bytes(view[start : start + WRITE_BYTES])
            self._digest.update(piece)
            try:
                self._target.write(piece)
            except Exception as error:
                self._problem = error
        self._size += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: only `close` makes anything durable."""

    def close(self) -> None:
        """Complete the file, or raise what went wrong: then the target is not closed, and nothing is there."""
        if self._problem is not None:
            raise self._problem
        self._target.close()

    @property
    def stored(self) -> Stored:
        """Size and digest of what was taken."""
        return Stored(self._size, self._digest.hexdigest())


def read_stream(part: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """Yield the parts [start, end) of a file of `size` bytes in order, fetching a few of them ahead."""

    def read(start: int) -> bytes:
        return part(start, min(start + READ_RANGE_BYTES, size))

    starts = iter(range(0, size, READ_RANGE_BYTES))
    if size <= READ_RANGE_BYTES:
        yield from (read(start) for start in starts)
        return
    pool = ThreadPoolExecutor(max_workers=READ_AHEAD, thread_name_prefix="storage-read")
    try:
        ahead: deque[Future[bytes]] = deque()
        for start in starts:
            ahead.append(pool.submit(read, start))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def write_stream(chunks: Iterator[bytes], target: Path) -> Stored:
    """Write chunks to `target`, which appears only when it is complete, and return its size and digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
    size = 0
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Stored(size, digest.hexdigest())
