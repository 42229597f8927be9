"""From a row's columns to its canonical value, or the reason why it has none: one function per layout.

A reason names columns, roles and positions, never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Final

from finetune_operator.api.inputs import Dataset
from finetune_operator.api.layouts import Layout
from finetune_trainer.file_formats.lines import Line
from finetune_trainer.rows.answers import judged, only_prompt, preference
from finetune_trainer.rows.kinds import kind_of, text_problem
from finetune_trainer.rows.labelled import labelled_text, labelled_words, positive_pair, scored_pair
from finetune_trainer.rows.layout import DETECTION_ROWS, RowLayout, choose_layout
from finetune_trainer.rows.turns import conversation, tools
from finetune_trainer.rows.values import Conversation, Message, PromptCompletion, RawText, Row, RowValue


def read_rows(
    lines: Iterable[Line], dataset: Dataset, accepted: Sequence[Layout], *, has_chat_template: bool
) -> tuple[RowLayout, Iterator[Row]]:
    """Return the layout of a data set and its rows in order, usable or not.

    `accepted` are the layouts of the job's objective. Only the rows that decide the layout are held in memory.
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
    layout = choose_layout(dataset, accepted, [line.value for line in held if line.value is not None])
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
    if layout.layout is Layout.ALPACA:
        return _alpaca(row, layout, has_chat_template)
    return _CONVERTERS[layout.layout](row, layout)


def _messages(row: Mapping[str, object], layout: RowLayout) -> Conversation | str:
    column = layout.columns["messages"]
    messages = conversation(row[column], column)
    return messages if isinstance(messages, str) else _with_tools(messages, row, layout)


def _sharegpt(row: Mapping[str, object], layout: RowLayout) -> Conversation | str:
    column, system_column = layout.columns["conversations"], layout.columns["system"]
    messages = conversation(row[column], column)
    if isinstance(messages, str):
        return messages
    system = row.get(system_column)
    if system is not None and not isinstance(system, str):
        return f"column {system_column} is {kind_of(system)}, not text"
    if system and system.strip() and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return _with_tools(messages, row, layout)


def _with_tools(messages: tuple[Message, ...], row: Mapping[str, object], layout: RowLayout) -> Conversation | str:
    column = layout.columns["tools"]
    if column not in row:
        return Conversation(messages)
    known = tools(row[column], column)
    return known if isinstance(known, str) else Conversation(messages, known)


def _prompt_completion(row: Mapping[str, object], layout: RowLayout) -> PromptCompletion | str:
    prompt, completion = layout.needed
    problem = text_problem(row[prompt], prompt) or text_problem(row[completion], completion)
    return problem or PromptCompletion(str(row[prompt]), str(row[completion]))


def _text(row: Mapping[str, object], layout: RowLayout) -> RawText | str:
    (column,) = layout.needed
    return text_problem(row[column], column) or RawText(str(row[column]))


def _alpaca(row: Mapping[str, object], layout: RowLayout, has_chat_template: bool) -> RowValue | str:
    columns = layout.columns
    instruction, output, extra = row[columns["instruction"]], row[columns["output"]], row.get(columns["input"])
    problem = text_problem(instruction, columns["instruction"]) or text_problem(output, columns["output"])
    if problem is not None:
        return problem
    if extra is not None and not isinstance(extra, str):
        return f"column {columns['input']} is {kind_of(extra)}, not text"
    has_input = bool(extra and extra.strip())
    if has_chat_template:
        question = f"{instruction}\n\n{extra}" if has_input else str(instruction)
        return Conversation((Message("user", question), Message("assistant", str(output))))
    middle = f"\n\n### Input:\n{extra}" if has_input else ""
    return PromptCompletion(f"### Instruction:\n{instruction}{middle}\n\n### Response:\n", str(output))


_CONVERTERS: Final[Mapping[Layout, Callable[[Mapping[str, object], RowLayout], RowValue | str]]] = MappingProxyType(
    {
        Layout.MESSAGES: _messages,
        Layout.SHAREGPT: _sharegpt,
        Layout.PROMPT_COMPLETION: _prompt_completion,
        Layout.TEXT: _text,
        Layout.PREFERENCE: preference,
        Layout.KTO: judged,
        Layout.PROMPT: only_prompt,
        Layout.CLASSIFICATION: labelled_text,
        Layout.TOKEN_CLASSIFICATION: labelled_words,
        Layout.SCORED_PAIR: scored_pair,
        Layout.TRIPLET: positive_pair,
        Layout.PAIR: positive_pair,
    }
)
