"""Rows that the user does not want (`dataset.filters`), decided in the order of rows by the same code in inspect and in train.

Near duplicates are found by MinHash: rensa 0.5 makes the signatures (Rust, no dependencies; datasketch 2.0 would bring numpy and scipy into the
inspect image). Of each signature only digests of its bands are kept, 16 numbers a row instead of 128, so that ten million rows fit into
the inspect pod.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final, Protocol

from finetune_operator.api.inputs import Filters
from finetune_trainer.rendering import Text
from finetune_trainer.row_selection import digest_of
from finetune_trainer.rows import Message, RowValue
from finetune_trainer.seen import SeenDigests

BANDS: Final = 16
BAND_ROWS: Final = 8
"""Two rows count as alike when 8 hashes in a row agree in any of 16 bands: so do 95 % of the pairs whose Jaccard similarity is 0.8, 24 % of those
with 0.6 and 1 % of those with 0.4."""
SHINGLE_WORDS: Final = 3
SHINGLE_CHARACTERS: Final = 5
_SEED: Final = 42
_WORD: Final = re.compile(r"\w+")
_LONGEST_WORD: Final = 40
"""Characters: longer ones are scripts that put no spaces between words, and are cut into characters."""


def contents(value: Any) -> Iterator[str]:
    """Yield the texts of a row as they stand in it, without system messages: those many rows have in common."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Message):
        if value.role != "system":
            yield value.content
    elif isinstance(value, tuple):
        for part in value:
            yield from contents(part)


def shingles(text: str) -> list[str]:
    """Return the runs of three words (case and punctuation left out) that a text is compared by."""
    words = _WORD.findall(text.lower())
    if any(len(word) > _LONGEST_WORD for word in words):
        joined = "".join(words)
        return [
            joined[start : start + SHINGLE_CHARACTERS] for start in range(max(1, len(joined) - SHINGLE_CHARACTERS + 1))
        ]
    return [" ".join(words[start : start + SHINGLE_WORDS]) for start in range(max(1, len(words) - SHINGLE_WORDS + 1))]


class _Known(Protocol):
    """Remembers rows."""

    def is_new(self, value: RowValue) -> bool:
        """Remember a row and return whether none like it was there before."""
        ...


class _Equal:
    def __init__(self) -> None:
        self._seen = SeenDigests()

    def is_new(self, value: RowValue) -> bool:
        return self._seen.add(digest_of(value))


class _Alike:
    def __init__(self) -> None:
        from rensa import RMinHash  # only where it is asked for

        self._make = RMinHash
        self._bands = [SeenDigests() for _ in range(BANDS)]

    def is_new(self, value: RowValue) -> bool:
        found = self._make(num_perm=BANDS * BAND_ROWS, seed=_SEED)
        found.update(shingles(" ".join(contents(value))))
        signature = array("I", found.digest())
        # Each band remembers the row, whatever the others say.
        new = [
            seen.add(_digest(signature[start : start + BAND_ROWS]))
            for seen, start in zip(self._bands, range(0, len(signature), BAND_ROWS), strict=True)
        ]
        return all(new)


def _digest(numbers: array[int]) -> int:
    return int.from_bytes(blake2b(numbers.tobytes(), digest_size=8).digest(), "little")


class RowFilter:
    """Says of usable rows, in their order, which are not wanted and why."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._deny = [word.casefold() for word in filters.keywords.deny]
        self._allow = [word.casefold() for word in filters.keywords.allow]
        self._known: _Known | None = None
        if filters.deduplicate in ("exact", "minhash"):  # semantic: row_decisions.py
            self._known = _Equal() if filters.deduplicate == "exact" else _Alike()

    def reason(self, value: RowValue, tokens: Callable[[], int]) -> str | None:
        """Return why a row is left out, None for one that stays. `tokens` counts those of its longest text, where that matters."""
        return self._by_keywords(value) or self._by_length(tokens) or self._by_others(value)

    def _by_keywords(self, value: RowValue) -> str | None:
        if not self._deny and not self._allow:
            return None
        text = "\n".join(contents(value)).casefold()
        for number, word in enumerate(self._deny, start=1):
            if word in text:
                return f"filters.keywords.deny: it has keyword {number} of the list"
        if self._allow and not any(word in text for word in self._allow):
            return "filters.keywords.allow: it has none of them"
        return None

    def _by_length(self, tokens: Callable[[], int]) -> str | None:
        least, most = self._filters.min_tokens, self._filters.max_tokens
        if least is None and most is None:
            return None
        count = tokens()
        if least is not None and count < least:
            return f"filters.minTokens: it has fewer than {least}"
        return f"filters.maxTokens: it has more than {most}" if most is not None and count > most else None

    def _by_others(self, value: RowValue) -> str | None:
        if self._known is None or self._known.is_new(value):
            return None
        like = "equal to" if self._filters.deduplicate == "exact" else "nearly the same as"
        return f"filters.deduplicate: it is {like} an earlier row"


def longest(tokenizer: Any, texts: Sequence[Text]) -> int:
    """Return the tokens of the longest of a row's texts, as the inspection counts them."""
    return max(len(tokenizer.encode(text.text, text.pair, add_special_tokens=not text.by_template)) for text in texts)
