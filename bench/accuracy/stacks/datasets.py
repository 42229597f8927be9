"""How long the longest sample of well-known data sets is: without packing it bounds a batch, not the program's limit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import read
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload

LARGE_VOCABULARY: Final = 50_000
LONGEST_TOKENS: Final[tuple[tuple[str, int, int], ...]] = ((r"alpaca", 1304, 1044),)
"""Pattern, tokens with small vocabularies and with large ones. Alpaca: 1,304 tokens with Llama 2's tokenizer, 1,034 to 1,044 with those
of 50,000 words and more (lit-gpt's tutorials/resource-tables.md, 2023)."""


def longest_of(row: Row) -> int | None:
    """Return the longest sample of the data set that the row names, in tokens; None for others and for packed rows."""
    large = (row.whole("vocab") or 0) >= LARGE_VOCABULARY
    kind = row.text("seq_kind").lower()
    if row.text("packing") == "1" or kind.startswith(("packed", "fixed")):
        return None
    return next(
        (wide if large else narrow for pattern, narrow, wide in LONGEST_TOKENS if re.search(pattern, kind)), None
    )


def bounded(row: Row, architecture: Architecture) -> Workload | str:
    """Read a row and cut its length to what its data can reach."""
    workload = read(row, architecture)
    longest = longest_of(row)
    if isinstance(workload, str) or longest is None:
        return workload
    return replace(workload, sequence_length=min(workload.sequence_length, longest))
