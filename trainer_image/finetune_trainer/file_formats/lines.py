"""What every reader yields, and the reader of JSONL: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from finetune_operator.api.exit_codes import ExitCode

LINE_LIMIT_BYTES: Final = 16 * 1024**2
"""A longer line is a problem of that line instead of a problem of the pod's memory."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One row of a file as it was read: its object, or why there is none."""

    file: str
    number: int
    """From 1: the line in a text file (of a CSV row that takes several the first), in others the number of the row."""
    value: dict[str, object] | None
    problem: str | None = None


class BrokenFile(Exception):
    """A file that cannot be read to its end: which, why, and what to do. Its content is never repeated."""

    exit_code = ExitCode.BAD_DATA

    def __init__(self, file: str, problem: str, remedy: str) -> None:
        super().__init__(f"the data set's file {file} cannot be read: {problem}; {remedy}")


def read_lines(file: str, chunks: Iterable[bytes]) -> Iterator[Line]:
    """Yield every line of a file that is not blank; a line that is no JSON object carries its problem."""
    for number, raw in enumerate(cut_lines(chunks), start=1):
        if raw is None:
            yield Line(file, number, None, f"the line is longer than {LINE_LIMIT_BYTES // 1024**2} MiB")
        elif raw.strip():
            yield line_of(file, number, raw, "line")


def cut_lines(chunks: Iterable[bytes], *, keep_ends: bool = False) -> Iterator[bytes | None]:
    """Yield lines, None for one that is too long; memory stays at one chunk and one line. With `keep_ends` they keep their newline."""
    tail = b""
    oversized = False
    end = b"\n" if keep_ends else b""
    for index, chunk in enumerate(chunks):
        parts = (chunk.removeprefix(BYTE_ORDER_MARK) if index == 0 else chunk).split(b"\n")
        if len(parts) > 1:
            yield None if oversized or len(tail) + len(parts[0]) > LINE_LIMIT_BYTES else tail + parts[0] + end
            for part in parts[1:-1]:
                yield part + end if len(part) <= LINE_LIMIT_BYTES else None
            tail, oversized = parts[-1], False
        elif not oversized:
            tail += parts[0]
        if len(tail) > LINE_LIMIT_BYTES:
            tail, oversized = b"", True
    if tail or oversized:
        yield None if oversized else tail


def line_of(file: str, number: int, raw: bytes, unit: Literal["line", "element"]) -> Line:
    """Return what a JSON text holds; a problem's position counts within the text, which is a line or an array's element."""
    try:
        value = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return Line(file, number, None, f"not UTF-8 at byte {error.start + 1} of the {unit}")
    except json.JSONDecodeError as error:
        return Line(file, number, None, f"not valid JSON at character {error.pos + 1} of the {unit}")
    except (RecursionError, ValueError):
        return Line(file, number, None, "JSON that is nested too deeply or has a number that is too long")
    if not isinstance(value, dict):
        return Line(file, number, None, "not a JSON object")
    if (b"\\ud" in raw or b"\\uD" in raw) and not _is_encodable(value):
        return Line(file, number, None, "half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return Line(file, number, value)


def _is_encodable(value: dict[str, object]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
