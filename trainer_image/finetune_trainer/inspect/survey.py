"""Reads every row of a data set once, in constant memory, and says what training will find: counts, lengths, and the rows it cannot use."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Final, Literal

from tokenizers import Encoding, Tokenizer

from finetune_operator.api.inspection import RowProblem
from finetune_trainer.encoding import Encoder
from finetune_trainer.inspect.seen import SeenDigests
from finetune_trainer.rendering import RenderedRow
from finetune_trainer.rows import Conversation, RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

BATCH_ROWS: Final = 256
BATCH_CHARACTERS: Final = 4 * 1024**2
"""A batch ends at either limit: memory stays small with long rows, and the tokenizer's threads have enough to do with short ones."""
BATCHES_AHEAD: Final = 2
PROBLEMS_KEPT: Final = 100_000
"""The full report holds at most this many unusable rows (about 10 MB); all are counted."""
REASONS_KEPT: Final = 50
CONVERSATIONS_ENCODED: Final = 20
_NUMBER: Final = re.compile(r"\d+")


@dataclass
class Survey:
    """What has been found so far."""

    lengths: Counter[int] = field(default_factory=Counter)
    problems: list[RowProblem] = field(default_factory=list)
    dropped: int = 0
    dropped_by_reason: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    duplicates: int = 0

    @property
    def rows(self) -> int:
        """Usable rows."""
        return self.lengths.total()

    def note_problem(self, problem: RowProblem) -> None:
        """Count an unusable row."""
        self.dropped += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)
        kind = _NUMBER.sub("#", problem.reason)  # "message 3 …" and "message 7 …" are one reason
        if kind not in self.dropped_by_reason and len(self.dropped_by_reason) >= REASONS_KEPT:
            kind = "other reasons"
        self.dropped_by_reason[kind] += 1


@dataclass(frozen=True)
class Limits:
    """What training will do with long rows."""

    max_length: int
    loss_on: Literal["completions", "all"]


def survey_rows(rows: Iterator[RenderedRow], tokenizer: TokenizerFiles, limits: Limits) -> Survey:
    """Read all rows; while one batch is tokenized (outside the interpreter's lock) the next ones are read and rendered."""
    result = Survey()
    seen = SeenDigests()
    lengths = _Lengths(tokenizer, limits)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
        pending: deque[tuple[list[RenderedRow], Future[list[int]]]] = deque()
        for batch in _batches(rows):
            pending.append((batch, pool.submit(lengths.of_batch, batch)))
            if len(pending) > BATCHES_AHEAD:
                _note(*pending.popleft(), result, seen, lengths)
        while pending:
            _note(*pending.popleft(), result, seen, lengths)
    return result


def _batches(rows: Iterator[RenderedRow]) -> Iterator[list[RenderedRow]]:
    while batch := list(islice(rows, 1)):
        characters = len(batch[0].text or "")
        for row in islice(rows, BATCH_ROWS - 1):
            batch.append(row)
            characters += len(row.text or "")
            if characters > BATCH_CHARACTERS:
                break
        yield batch


def _note(
    batch: list[RenderedRow], counted: Future[list[int]], result: Survey, seen: SeenDigests, lengths: _Lengths
) -> None:
    """Add one batch, in the order of its rows."""
    remaining = iter(counted.result())
    for row, text in batch:
        problem, length = row.problem, 0
        if row.value is not None and text is not None:
            length = next(remaining)
            problem = lengths.problem(row.value, text, length)
        if problem is not None or row.value is None:
            result.note_problem(RowProblem(file=row.file, line=row.line, reason=problem or "unusable"))
            continue
        result.lengths[length] += 1
        result.truncated += length > lengths.limits.max_length
        result.duplicates += not seen.add(_digest(row.value))


def _digest(value: RowValue) -> int:
    kind = "m" if isinstance(value, Conversation) else "p"
    return int.from_bytes(
        blake2b((kind + repr(value)).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


class _Lengths:
    """Counts tokens as SFTTrainer will."""

    def __init__(self, files: TokenizerFiles, limits: Limits) -> None:
        self._tokenizer: Tokenizer = files.tokenizer
        self._encoder = Encoder(files, completions_only=True, max_length=limits.max_length)
        self._encoded = 0
        self.limits = limits

    def of_batch(self, batch: Iterable[RenderedRow]) -> list[int]:
        """Return the number of tokens of each row that has a text.

        A rendered conversation brings its own special tokens; plain text gets those that the tokenizer adds.
        """
        rendered = [(isinstance(row.value, Conversation), text) for row, text in batch if text is not None]
        conversations = self._count([text for is_chat, text in rendered if is_chat], special=False)
        plain = self._count([text for is_chat, text in rendered if not is_chat], special=True)
        return [next(conversations if is_chat else plain) for is_chat, _ in rendered]

    def _count(self, texts: list[str], *, special: bool) -> Iterator[int]:
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        return map(len, encodings)

    def problem(self, value: RowValue, text: str, length: int) -> str | None:
        """Return why a row of this length cannot be used: it has no token, or training cuts off all of its answer.

        The first conversations are encoded with their labels whatever their length: a template that does not let training find the answers
        must be known before the GPUs are taken.
        """
        if length == 0:
            return "it has no tokens"
        if self.limits.loss_on == "all":
            return None
        is_early = isinstance(value, Conversation) and self._encoded < CONVERSATIONS_ENCODED
        if length <= self.limits.max_length and not is_early:
            return None
        self._encoded += 1
        if self._encoder.encode(value, text).is_trainable:
            return None
        return f"no token of the answer is within training.maxLength ({self.limits.max_length})"
