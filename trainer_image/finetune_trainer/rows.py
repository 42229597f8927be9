"""From the lines of a data set's files to rows that can be trained on: pure, and the same code in inspect and in train.

Both must see the same rows in the same order, or the plan counts what is not trained. So everything that decides over a row is here: which
layout a data set has, how a row becomes a `Conversation` or a `PromptCompletion`, and why another one cannot.
A reason names columns and roles, never a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Final, NamedTuple

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.spec import Columns, Dataset
from finetune_trainer.file_formats.lines import Line

DETECTION_ROWS: Final = 20
"""How many of the first readable rows decide the layout where dataset.format is auto."""


class Layout(StrEnum):
    """How the columns of a row are to be read."""

    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt-completion"
    ALPACA = "alpaca"


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Turns that the model's chat template renders."""

    messages: tuple[Message, ...]


class PromptCompletion(NamedTuple):
    """Plain text: the prompt, then the completion and the tokenizer's end token, with no chat template."""

    prompt: str
    completion: str


RowValue = Conversation | PromptCompletion


class Row(NamedTuple):
    """One row: its value, or why it cannot be used."""

    file: str
    line: int
    value: RowValue | None
    problem: str | None = None


class RowLayout(NamedTuple):
    """The layout of a data set and the names of the columns it is read from."""

    layout: Layout
    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which no row can be read."""
        if self.layout is Layout.MESSAGES:
            return (self.messages,)
        if self.layout is Layout.PROMPT_COMPLETION:
            return (self.prompt, self.completion)
        return (self.instruction, self.output)


class LayoutUnknown(Exception):
    """The layout of a data set could not be detected; the message says what to set."""

    exit_code = ExitCode.BAD_DATA


def choose_layout(dataset: Dataset, first: Sequence[Mapping[str, object]]) -> RowLayout:
    """Return the layout that the spec names, or the one that most of the first rows have (LayoutUnknown when none)."""
    layout = Layout(dataset.format) if dataset.format != "auto" else _detected(dataset.columns, first)
    named = {key: value for key, value in dataset.columns.model_dump(by_alias=False).items() if value is not None}
    return RowLayout(layout, **named)


def _detected(columns: Columns, first: Sequence[Mapping[str, object]]) -> Layout:
    if columns.messages is not None:
        return Layout.MESSAGES
    if columns.prompt is not None:
        return Layout.PROMPT_COMPLETION
    if columns.instruction is not None:
        return Layout.ALPACA
    named = {key: value for key, value in columns.model_dump(by_alias=False).items() if value is not None}
    votes = {
        layout: sum(all(column in row for column in RowLayout(layout, **named).needed) for row in first)
        for layout in Layout
    }
    best = max(votes, key=lambda layout: votes[layout])
    if votes[best] > 0:
        return best
    seen = sorted({name[:40] for row in first for name in row})[:10]
    raise LayoutUnknown(
        f"the layout of the data set is unknown: its first {len(first)} rows have the columns {', '.join(seen) or '(none)'}; "
        "set dataset.columns (for example {prompt: question, completion: answer}), or write rows with messages, "
        "with prompt and completion, or with instruction and output"
    )


def read_rows(lines: Iterable[Line], dataset: Dataset, *, has_chat_template: bool) -> tuple[RowLayout, Iterator[Row]]:
    """Return the layout of a data set and its rows in order, usable or not.

    `lines` are those of all files in the order of names. Only the rows that decide the layout are held in memory.
    """
    lines = iter(lines)
    held: list[Line] = []
    if dataset.format == "auto":
        readable = 0
        for line in lines:
            held.append(line)
            readable += line.value is not None
            if readable == DETECTION_ROWS:
                break
    layout = choose_layout(dataset, [line.value for line in held if line.value is not None])
    return layout, (to_row(line, layout, has_chat_template=has_chat_template) for line in chain(held, lines))


def to_row(line: Line, layout: RowLayout, *, has_chat_template: bool) -> Row:
    """Return the row that a line holds."""
    if line.value is None:
        return Row(line.file, line.number, None, line.problem)
    value = convert(line.value, layout, has_chat_template=has_chat_template)
    if isinstance(value, str):
        return Row(line.file, line.number, None, value)
    return Row(line.file, line.number, value)


def convert(row: Mapping[str, object], layout: RowLayout, *, has_chat_template: bool) -> RowValue | str:
    """Return the canonical value of a row, or the reason why it has none."""
    for column in layout.needed:
        if column not in row:
            return f"column {column} is missing"
    if layout.layout is Layout.MESSAGES:
        return _conversation(row[layout.messages], layout.messages)
    if layout.layout is Layout.PROMPT_COMPLETION:
        return _prompt_completion(row, layout.prompt, layout.completion)
    return _alpaca(row, layout, has_chat_template)


def _text_problem(value: object, column: str) -> str | None:
    if not isinstance(value, str):
        return f"column {column} is {_kind(value)}, not text"
    if not value.strip():
        return f"column {column} is empty"
    return None


def _prompt_completion(row: Mapping[str, object], prompt: str, completion: str) -> PromptCompletion | str:
    problem = _text_problem(row[prompt], prompt) or _text_problem(row[completion], completion)
    return problem or PromptCompletion(str(row[prompt]), str(row[completion]))


def _alpaca(row: Mapping[str, object], layout: RowLayout, has_chat_template: bool) -> RowValue | str:
    instruction, output, extra = row[layout.instruction], row[layout.output], row.get(layout.input)
    problem = _text_problem(instruction, layout.instruction) or _text_problem(output, layout.output)
    if problem is not None:
        return problem
    if extra is not None and not isinstance(extra, str):
        return f"column {layout.input} is {_kind(extra)}, not text"
    has_input = bool(extra and extra.strip())
    if has_chat_template:
        question = f"{instruction}\n\n{extra}" if has_input else str(instruction)
        return Conversation((Message("user", question), Message("assistant", str(output))))
    middle = f"\n\n### Input:\n{extra}" if has_input else ""
    return PromptCompletion(f"### Instruction:\n{instruction}{middle}\n\n### Response:\n", str(output))


def _conversation(value: object, column: str) -> Conversation | str:
    if not isinstance(value, list):
        return f"column {column} is {_kind(value)}, not a list of messages"
    if not value:
        return f"column {column} is empty"
    messages: list[Message] = []
    expected: tuple[str, ...] = ("system", "user")
    for index, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            return f"message {index} is {_kind(item)}, not an object"
        role, content = item.get("role"), item.get("content")
        if role not in ("system", "user", "assistant"):
            return f"message {index} has no role, or one that is not system, user or assistant"
        if not isinstance(content, str):
            return f"the content of message {index} ({role}) is {_kind(content)}, not text"
        if role not in expected:
            return f"roles out of order: message {index} is {role}, expected {' or '.join(expected)}"
        if not content.strip() and role != "system":
            return f"the content of message {index} ({role}) is empty"
        expected = ("assistant",) if role == "user" else ("user",)
        messages.append(Message(role, content))
    if messages[-1].role != "assistant":
        return (
            "no assistant turn"
            if all(m.role != "assistant" for m in messages)
            else "the last turn is not the assistant's"
        )
    return Conversation(tuple(messages))


def _kind(value: object) -> str:
    """Return the JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "of an unknown type")
