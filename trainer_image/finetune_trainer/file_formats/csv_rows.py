"""The reader of CSV and TSV with a header: every value is text.

Python's csv module, not Arrow's reader: it tells the line of each row although values may have line ends, and a row that it cannot read costs
that row and not the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from finetune_trainer.file_formats.lines import LINE_LIMIT_BYTES, BrokenFile, Line, cut_lines


def read_csv(file: str, chunks: Iterable[bytes], delimiter: str = ",") -> Iterator[Line]:
    """Yield the rows below the header, each with the line that it begins in; blank lines are no rows.

    Raises:
        BrokenFile: The header cannot be used.
    """
    csv.field_size_limit(LINE_LIMIT_BYTES)
    source = _Text(cut_lines(chunks, keep_ends=True))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), [])
    except csv.Error as error:
        raise BrokenFile(
            file, f"its header is no CSV ({error})", "write the names of the columns in the first line"
        ) from None
    if (
        source.take_problem()
        or not header
        or len(set(header)) < len(header)
        or not all(name.strip() for name in header)
    ):
        wanted = "its first line is not the names of its columns, each there once and in UTF-8"
        raise BrokenFile(file, wanted, "write them in the first line")
    columns = [name.strip() for name in header]
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Line(file, number, None, source.take_problem() or f"not valid CSV: {error}")
            continue
        if row is None:
            return
        problem = source.take_problem()
        if problem is None and row and len(row) != len(columns):
            problem = f"{len(row)} values for {len(columns)} columns"
        if problem is not None:
            yield Line(file, number, None, problem)
        elif row:
            yield Line(file, number, dict(zip(columns, row, strict=True)))


class _Text:
    """Lines as text for the csv module, which cannot be told of a line that is none."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self._problem: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            self._problem = self._problem or f"the line is longer than {LINE_LIMIT_BYTES // 1024**2} MiB"
            return "\n"
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self._problem = self._problem or f"not UTF-8 at byte {error.start + 1} of the line"
            return line.decode(errors="replace")

    def take_problem(self) -> str | None:
        """Return what was wrong with the lines since the last call."""
        problem, self._problem = self._problem, None
        return problem
