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
        self._template = files.template
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
        """Return why a row of this length cannot be used: it has no token, or training cuts off all of its answer."""
        if length == 0:
            return "it has no tokens"
        if length <= self.limits.max_length or self.limits.loss_on == "all":
            return None
        if self._answer_start(value, text) < self.limits.max_length:
            return None
        return f"no token of the answer is within training.maxLength ({self.limits.max_length})"

    def _answer_start(self, value: RowValue, text: str) -> int:
        """Return the index of the first token that the loss counts."""
        if not isinstance(value, Conversation):
            prompt = self._tokenizer.encode(value.prompt).ids
            return _common_prefix(prompt, self._tokenizer.encode(text).ids)
        if self._template is None:
            return 0
        if self._template.marks_generation:
            text, spans = self._template.render_with_spans(value.messages)
            if not spans:
                return len(text)
            first = self._tokenizer.encode(text, add_special_tokens=False).char_to_token(spans[0][0])
            return len(text) if first is None else int(first)
        asked = next(index for index, message in enumerate(value.messages) if message.role == "assistant")
        prompt_text = self._template.render(value.messages[:asked], add_generation_prompt=True)
        return len(self._tokenizer.encode(prompt_text, add_special_tokens=False).ids)


def _common_prefix(first: list[int], second: list[int]) -> int:
    return next(
        (index for index, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
