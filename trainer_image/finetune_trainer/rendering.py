"""From rows to the texts that are tokenized: the second half of what makes a row usable, again the same for inspect and train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inputs import Dataset
from finetune_operator.api.layouts import Layout
from finetune_trainer.chat_template import ChatTemplate, TemplateRefused
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.file_formats.lines import Line
from finetune_trainer.rows import (
    Conversation,
    JudgedCompletion,
    LabelledText,
    LabelledWords,
    PositivePair,
    Preference,
    Prompt,
    PromptCompletion,
    RawText,
    Row,
    RowLayout,
    RowValue,
    ScoredPair,
    Tools,
    Turns,
    read_rows,
)
from finetune_trainer.tokenizer_files import TokenizerFiles


class Text(NamedTuple):
    """One text of a row as a tokenizer takes it.

    `side` tells which of a row's texts it is: row, chosen, rejected, completion, prompt, anchor, positive, negative, first, second. `prompt` is
    how many characters of it are given and never learned (0 where the row's kind has no such border). `by_template`: the chat template wrote it,
    with all special tokens; other texts get those that the tokenizer adds. `pair` is read together with it.
    """

    side: str
    text: str
    prompt: int = 0
    by_template: bool = False
    pair: str | None = None


class RenderedRow(NamedTuple):
    """A row and its texts; without texts it carries the problem."""

    row: Row
    texts: tuple[Text, ...]

    @property
    def characters(self) -> int:
        """Of all texts."""
        return sum(len(text.text) for text in self.texts)


_ENDED: Final = frozenset({Layout.MESSAGES, Layout.PROMPT_COMPLETION, Layout.ALPACA, Layout.SHAREGPT, Layout.TEXT})
"""Layouts whose plain texts end with the tokenizer's end token, so that the model learns to stop."""


def read_rendered_rows(
    lines: Iterable[Line],
    dataset: Dataset,
    accepted: Sequence[Layout],
    tokenizer: TokenizerFiles,
    *,
    together: bool = False,
) -> tuple[RowLayout, Iterator[RenderedRow]]:
    """Return the layout of a data set and every row in order, usable or not, each usable one with its texts.

    `together`: the two texts of a scored pair are read as one sequence.
    """
    layout, rows = read_rows(lines, dataset, accepted, has_chat_template=tokenizer.template is not None)
    if layout.layout in (Layout.MESSAGES, Layout.SHAREGPT) and tokenizer.template is None:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"the data set has conversations (format {layout.layout}), but the model has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json) to render them; use an instruct model, or a data set with prompt and completion",
        )
    is_plain = layout.layout is Layout.TEXT or tokenizer.template is None
    if layout.layout in _ENDED and is_plain and not tokenizer.eos_token:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            "the model's tokenizer has no eos_token (and no chat template that would do instead), so that no text would have an end; "
            "set eos_token in tokenizer_config.json",
        )
    return layout, (render(row, tokenizer.template, tokenizer.eos_token, together=together) for row in rows)


class _Unusable(Exception):
    """A row cannot be rendered; the message is the reason."""


class Unanswerable(Exception):
    """A model that judges answers cannot read one; the message is the reason, without content."""


def answered(prompt: str | Turns, answer: str | Turns, files: TokenizerFiles) -> Text:
    """Return a prompt with its answer, ended, as training has rendered the answers that the model has learned to judge.

    Raises:
        Unanswerable: The model's template or tokenizer cannot write it.
    """
    try:
        if isinstance(prompt, str):
            return Text("completion", _ended(f"{prompt}{answer}", files.eos_token), len(prompt))
        assert not isinstance(answer, str)  # noqa: S101 - both are text or both are turns
        return Text("completion", _rendered(files.template, (*prompt, *answer), None), by_template=True)
    except (_Unusable, TemplateRefused) as problem:
        raise Unanswerable(str(problem)) from None


def render(row: Row, template: ChatTemplate | None, eos_token: str | None, *, together: bool = False) -> RenderedRow:
    """Return a row with the texts that training tokenizes for it."""
    if row.value is None:
        return RenderedRow(row, ())
    if together and isinstance(row.value, ScoredPair):
        return RenderedRow(row, (Text("row", row.value.first, pair=row.value.second),))
    try:
        return RenderedRow(row, _texts(row.value, template, eos_token))
    except (_Unusable, TemplateRefused) as problem:
        return RenderedRow(row._replace(value=None, problem=str(problem)), ())


def _texts(value: RowValue, template: ChatTemplate | None, eos_token: str | None) -> tuple[Text, ...]:
    match value:
        case Conversation():
            return (Text("row", _rendered(template, value.messages, value.tools), by_template=True),)
        case PromptCompletion():
            return (_answered("row", value.prompt, value.completion, None, template, eos_token),)
        case RawText():
            return (Text("row", _ended(value.text, eos_token)),)
        case Preference():
            return (
                _answered("chosen", value.prompt, value.chosen, value.tools, template, eos_token),
                _answered("rejected", value.prompt, value.rejected, value.tools, template, eos_token),
            )
        case JudgedCompletion():
            return (_answered("completion", value.prompt, value.completion, value.tools, template, eos_token),)
        case Prompt():
            if isinstance(value.prompt, str):
                return (Text("prompt", value.prompt, len(value.prompt)),)
            text = _rendered(template, value.prompt, value.tools, prompt=True)
            return (Text("prompt", text, len(text), by_template=True),)
        case LabelledText():
            return (Text("row", value.text, pair=value.text_pair),)
        case LabelledWords():
            return (Text("row", " ".join(value.words)),)
        case ScoredPair():
            return (Text("first", value.first), Text("second", value.second))
        case PositivePair():
            sides = (Text("anchor", value.anchor), Text("positive", value.positive))
            return sides if value.negative is None else (*sides, Text("negative", value.negative))


def _rendered(template: ChatTemplate | None, messages: Turns, tools: Tools | None, *, prompt: bool = False) -> str:
    if template is None:
        raise _Unusable("the model has no chat template")
    text = template.render(messages, tools=tools, add_generation_prompt=prompt)
    if not text.strip():
        raise _Unusable("the chat template renders it to nothing")
    return text


def _answered(
    side: str,
    prompt: str | Turns,
    answer: str | Turns,
    tools: Tools | None,
    template: ChatTemplate | None,
    eos_token: str | None,
) -> Text:
    """Return a prompt with its answer, and where the answer begins."""
    if isinstance(prompt, str):
        return Text(side, _ended(f"{prompt}{answer}", eos_token), len(prompt))
    assert not isinstance(answer, str)  # noqa: S101 - rows have both as text or both as turns
    before = _rendered(template, prompt, tools, prompt=True)
    text = _rendered(template, (*prompt, *answer), tools)
    if not text.startswith(before):
        raise _Unusable("the chat template renders the prompt differently once an answer follows")
    return Text(side, text, len(before), by_template=True)


def _ended(text: str, eos_token: str | None) -> str:
    if not eos_token:
        raise _Unusable("the tokenizer has no eos_token to end the text with")
    return text if text.endswith(eos_token) else f"{text}{eos_token}"
