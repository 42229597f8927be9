"""The reader of a JSON array of objects, element by element.

Why not ijson 3.6: one broken element ends its reading, it tells no lines, and it takes numbers either as Decimal or as 64-bit integers that
overflow. Here only the borders of the elements are looked for; each is then parsed by itself, as a line of JSONL is, with the same limits and
the same problems.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from finetune_trainer.file_formats.lines import (
    BYTE_ORDER_MARK,
    LINE_LIMIT_BYTES,
    BrokenFile,
    Line,
    line_of,
)

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BETWEEN: Final = re.compile(rb"%s|[\"\[\]{},]" % _STRING, re.DOTALL)
"""In the array itself: a whole string, or what opens, closes or separates; a quotation mark alone opens a string that the buffer does not end."""
_INSIDE: Final = re.compile(rb"(?:%s[^\"\[\]{}]*+)++|[\"\[\]{}]" % _STRING, re.DOTALL)
"""In an element, where commas say nothing: strings and what is between them at once."""
_QUOTE: Final = ord('"')
_COMMA: Final = ord(",")
_OPENING: Final = b"[{"
_CLOSING: Final = b"]}"


def read_array(file: str, chunks: Iterable[bytes]) -> Iterator[Line]:
    """Yield the elements of the array, each with the line that it begins in; memory stays at one chunk and one element.

    Raises:
        BrokenFile: The array has no end, something follows it, or an element is longer than the limit.
    """
    elements = _Elements(file)
    for chunk in chunks:
        yield from elements.feed(chunk)
    elements.close()


class _Elements:
    """The borders between elements, found as bytes come in."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._buffer = b""
        self._start = self._position = 0
        """Of the element, and how far the buffer has been looked at."""
        self._line = 1
        """Of the element's start."""
        self._depth = 0
        self._has_ended = False
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[Line]:
        if self._first:
            chunk, self._first = chunk.removeprefix(BYTE_ORDER_MARK), False
        self._position -= self._start
        self._buffer, self._start = self._buffer[self._start :] + chunk, 0
        if not self._has_ended:
            yield from self._scan()
        if self._has_ended:
            self._refuse_more()
        elif len(self._buffer) - self._start > LINE_LIMIT_BYTES:
            limit = f"{LINE_LIMIT_BYTES // 1024**2} MiB"
            problem = f"the element that begins in or after line {self._line} is longer than {limit}"
            raise BrokenFile(self._file, problem, "write an array of objects, or JSONL")

    def _scan(self) -> Iterator[Line]:
        while token := (_INSIDE if self._depth > 1 else _BETWEEN).search(self._buffer, self._position):
            start, self._position = token.span()
            first = self._buffer[start]
            if first in _OPENING:
                if self._depth == 0:
                    self._advance(self._position)
                self._depth += 1
            elif first in _CLOSING:
                self._depth -= 1
                if self._depth == 0:
                    yield from self._element(start, is_last=True)
                    return
            elif first == _COMMA and self._depth == 1:
                yield from self._element(start)
            elif first == _QUOTE and self._position == start + 1:
                self._position = start  # the string goes on in the next chunk
                return
        self._position = len(self._buffer)

    def _refuse_more(self) -> None:
        if self._buffer[self._start :].strip():
            problem = f"something follows the end of its array (line {self._line})"
            raise BrokenFile(self._file, problem, "write one array of objects, or JSONL")
        self._start = self._position = len(self._buffer)

    def _element(self, end: int, *, is_last: bool = False) -> Iterator[Line]:
        raw = self._buffer[self._start : end]
        content = raw.lstrip()
        line = self._line + raw[: len(raw) - len(content)].count(b"\n")
        self._has_ended = is_last
        self._advance(end + 1)
        if content or not is_last:  # an empty array has no element, and an author's last comma is no row
            yield line_of(self._file, line, content, "element")

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count(b"\n", self._start, position)
        self._start = position

    def close(self) -> None:
        if not self._has_ended:
            problem = f"it ends within its array, in or after line {self._line}"
            raise BrokenFile(self._file, problem, "it was cut short: write it again")
