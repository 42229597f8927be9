"""Reads every row of a data set once, in constant memory, and says what training will find: counts, lengths, and the rows it cannot use."""

from __future__ import annotations

import functools
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, NamedTuple

from tokenizers import Tokenizer

from finetune_operator.api.evaluation import Split
from finetune_operator.api.inputs import Filters
from finetune_operator.api.inspection import RowProblem
from finetune_operator.api.online import OnlinePolicy
from finetune_trainer.encoding import Encoder, answer_tokens, pieces
from finetune_trainer.inspect.labels import count_labels
from finetune_trainer.rendering import RenderedRow, Text
from finetune_trainer.rewards.prompts import problem_of as prompt_problem
from finetune_trainer.row_decisions import Decisions, RowModels
from finetune_trainer.row_filters import RowFilter
from finetune_trainer.row_selection import digest_of, is_evaluated, times_trained
from finetune_trainer.rows import (
    Conversation,
    JudgedCompletion,
    Preference,
    Prompt,
    PromptCompletion,
    RawText,
    Row,
    RowValue,
    ScoredPair,
)
from finetune_trainer.seen import SeenDigests
from finetune_trainer.tokenizer_files import TokenizerFiles

BATCH_ROWS: Final = 256
BATCH_CHARACTERS: Final = 4 * 1024**2
"""A batch ends at either limit: memory stays small with long rows, and the tokenizer's threads have enough to do with short ones."""
BATCHES_AHEAD: Final = 2
PROBLEMS_KEPT: Final = 100_000
"""The full report holds at most this many unusable rows (about 10 MB); all are counted."""
REASONS_KEPT: Final = 50
CONVERSATIONS_ENCODED: Final = 20
SHAPES_ENCODED: Final = 256
"""Of conversations: the roles of their turns, in order."""
_NUMBER: Final = re.compile(r"\d+")


@dataclass
class Survey:
    """What has been found so far."""

    lengths: Counter[int] = field(default_factory=Counter)
    sides: dict[str, Counter[int]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    problems: list[RowProblem] = field(default_factory=list)
    used: int = 0
    """Usable rows that are not evaluated, each once, whatever their weight."""
    dropped: int = 0
    dropped_by_reason: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    duplicates: int = 0
    left_out: list[RowProblem] = field(default_factory=list)
    filtered: int = 0
    filtered_by_reason: Counter[str] = field(default_factory=Counter)
    evaluated: Counter[int] = field(default_factory=Counter)
    """Lengths of the rows that are kept from training."""

    decisions: Decisions = field(default_factory=Decisions)
    """Of models that are asked about rows, of this file of rows."""
    scores: tuple[float, float] | None = None
    """Least and largest score of the rows that have one."""

    @property
    def rows(self) -> int:
        """What training takes its batches from: usable rows, of raw text the pieces of them."""
        return self.lengths.total()

    def note_row(self, value: RowValue, sides: Mapping[str, int], max_length: int, times: int = 1) -> None:
        """Count a usable row that is trained so many times in an epoch, given the tokens of each of its texts."""
        self.used += 1
        longest = max(sides.values())
        # A row that its weight leaves out is encoded all the same, so that its labels need numbers: they are counted 0 times.
        count_labels(self.labels, value, times)
        if times > 0 and isinstance(value, RawText):
            for first, last in pieces(longest, max_length):
                self.lengths[last - first] += times
        elif times > 0:
            self.lengths[longest] += times
            self.truncated += times * (longest > max_length)
            for side, length in sides.items() if len(sides) > 1 else ():
                self.sides.setdefault(side, Counter())[length] += times
        if isinstance(value, ScoredPair):
            least, most = self.scores or (value.score, value.score)
            self.scores = min(least, value.score), max(most, value.score)

    def note_filtered(self, row: RowProblem) -> None:
        """Count a usable row that is not wanted."""
        self.filtered += 1
        self.filtered_by_reason[row.reason] += 1
        if len(self.left_out) < PROBLEMS_KEPT:
            self.left_out.append(row)

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
    truncation: Literal["right", "left"] = "right"
    split: Split | None = None
    filters: Filters = field(default_factory=Filters)
    online: OnlinePolicy | None = None
    weight: float = 1.0
    seed: int = 0
    """Of the weight."""


def survey_rows(
    rows: Iterator[RenderedRow],
    tokenizer: TokenizerFiles,
    limits: Limits,
    seen: SeenDigests | None = None,
    models: RowModels | None = None,
) -> Survey:
    """Read all rows; while one batch is tokenized (outside the interpreter's lock) the next ones are read and rendered.

    `seen` has the rows of data sets that were read before, which duplicates are counted with; `models` are asked about rows that filters leave in.
    """
    result = Survey()
    seen = SeenDigests() if seen is None else seen
    wanted = RowFilter(limits.filters)
    lengths = _Lengths(tokenizer, limits)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
        pending: deque[tuple[list[RenderedRow], Future[Iterator[int]]]] = deque()
        for batch in _batches(rows):
            pending.append((batch, pool.submit(lengths.of_batch, batch)))
            if len(pending) > BATCHES_AHEAD:
                _note(*pending.popleft(), result, seen, wanted, lengths, models)
        while pending:
            _note(*pending.popleft(), result, seen, wanted, lengths, models)
    return result


def _batches(rows: Iterator[RenderedRow]) -> Iterator[list[RenderedRow]]:
    while batch := list(islice(rows, 1)):
        characters = batch[0].characters
        for row in islice(rows, BATCH_ROWS - 1):
            batch.append(row)
            characters += row.characters
            if characters > BATCH_CHARACTERS:
                break
        yield batch


class _Staying(NamedTuple):
    """A usable row that the job's own filters leave in."""

    number: int
    """In the order of reading, from 0."""
    row: Row
    value: RowValue
    sides: dict[str, int]


def _note(
    batch: list[RenderedRow],
    counted: Future[Iterator[int]],
    result: Survey,
    seen: SeenDigests,
    wanted: RowFilter,
    lengths: _Lengths,
    models: RowModels | None,
) -> None:
    """Add one batch, in the order of its rows."""
    remaining = counted.result()
    staying: list[_Staying] = []
    for number, rendered in enumerate(batch, start=result.decisions.rows):
        row, texts = rendered
        problem = row.problem
        sides = {text.side: next(remaining) for text in texts}
        if row.value is not None:
            problem = lengths.problem(row.value, texts, sides)
        if problem is not None or row.value is None:
            result.note_problem(RowProblem(file=row.file, line=row.line, reason=problem or "unusable"))
            continue
        reason = wanted.reason(row.value, functools.partial(max, sides.values()))
        if reason is not None:
            result.note_filtered(RowProblem(file=row.file, line=row.line, reason=reason))
            continue
        staying.append(_Staying(number, row, row.value, sides))
    result.decisions.rows += len(batch)
    reasons = models.reasons([each.value for each in staying]) if models and staying else [None] * len(staying)
    for (number, row, value, sides), reason in zip(staying, reasons, strict=True):
        if reason is not None:
            result.decisions.left_out.append(number)
            result.note_filtered(RowProblem(file=row.file, line=row.line, reason=reason))
            continue
        if is_evaluated(value, lengths.limits.split):
            result.evaluated[max(sides.values())] += 1
            continue
        times = times_trained(value, lengths.limits.weight, lengths.limits.seed)
        result.note_row(value, sides, lengths.limits.max_length, times)
        result.duplicates += not seen.add(digest_of(value))


class _Lengths:
    """Counts tokens as SFTTrainer will."""

    def __init__(self, files: TokenizerFiles, limits: Limits) -> None:
        self._files = files
        self._tokenizer: Tokenizer = files.tokenizer
        self._encoder = Encoder(
            files, completions_only=True, max_length=limits.max_length, truncation=limits.truncation
        )
        self._encoded = 0
        self._shapes: set[tuple[tuple[str, bool], ...]] = set()
        self.limits = limits

    def of_batch(self, batch: Iterable[RenderedRow]) -> Iterator[int]:
        """Return the number of tokens of each text, row by row.

        A rendered conversation brings its own special tokens; other texts get those that the tokenizer adds.
        """
        texts = [text for row in batch for text in row.texts]
        given: dict[bool, list[str | tuple[str, str]]] = {}
        for text in texts:
            given.setdefault(text.by_template, []).append(text.text if text.pair is None else (text.text, text.pair))
        counted = {
            by_template: map(len, self._tokenizer.encode_batch_fast(some, add_special_tokens=not by_template))
            for by_template, some in given.items()
        }
        return iter([next(counted[text.by_template]) for text in texts])

    def problem(self, value: RowValue, texts: Sequence[Text], lengths: Mapping[str, int]) -> str | None:
        """Return why a row of these lengths cannot be used: it has no token, or training cuts off all of an answer.

        The first conversations, and the first of each order of roles, are encoded with their labels whatever their length: a template that does not
        let training find the answers must be known before the GPUs are taken.
        """
        if not all(lengths.values()):
            return "it has no tokens"
        if isinstance(value, RawText) and min(lengths.values()) < 2:
            return "it has one token, and none to predict from it"
        if isinstance(value, Conversation | PromptCompletion):
            return self._problem_of_answer(value, texts[0].text, lengths[texts[0].side])
        if isinstance(value, Prompt) and self.limits.online is not None:
            return prompt_problem(value, lengths[texts[0].side], self.limits.online, self.limits.max_length)
        if isinstance(value, Preference | JudgedCompletion) and self._is_all_prompt(texts, lengths):
            return self._cut_off
        return None

    @property
    def _cut_off(self) -> str:
        return f"no token of the answer is within training.maxLength ({self.limits.max_length})"

    def _problem_of_answer(self, value: Conversation | PromptCompletion, text: str, length: int) -> str | None:
        if self.limits.loss_on == "all":
            return None
        is_early = isinstance(value, Conversation) and self._is_early(value)
        if length <= self.limits.max_length and not is_early:
            return None
        self._encoded += 1
        return None if self._encoder.encode(value, text).is_trainable else self._cut_off

    def _is_early(self, value: Conversation) -> bool:
        shape = tuple((message.role, message.more is not None) for message in value.messages)
        if shape not in self._shapes and len(self._shapes) < SHAPES_ENCODED:
            self._shapes.add(shape)
            return True
        return self._encoded < CONVERSATIONS_ENCODED

    def _is_all_prompt(self, texts: Sequence[Text], lengths: Mapping[str, int]) -> bool:
        if min(lengths.values()) <= self.limits.max_length:
            return False
        return min(answer_tokens(self._files, text)[1] for text in texts) >= self.limits.max_length
