"""From rows to the text that is tokenized: the second half of what makes a row usable, again the same for inspect and train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.spec import Dataset
from finetune_trainer.chat_template import ChatTemplate, TemplateRefused
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.file_formats.lines import Line
from finetune_trainer.rows import Conversation, Row, RowLayout, read_rows
from finetune_trainer.tokenizer_files import TokenizerFiles


class RenderedRow(NamedTuple):
    """A row and its text; without text it carries the problem."""

    row: Row
    text: str | None


def read_rendered_rows(
    lines: Iterable[Line], dataset: Dataset, tokenizer: TokenizerFiles
) -> tuple[RowLayout, Iterator[RenderedRow]]:
    """Return the layout of a data set and every row in order, usable or not, each usable one with its text."""
    layout, rows = read_rows(lines, dataset, has_chat_template=tokenizer.template is not None)
    if layout.layout == "messages" and tokenizer.template is None:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            "the data set has messages, but the model has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json) to render them; use an instruct model, or a data set with prompt and completion",
        )
    if tokenizer.template is None and not tokenizer.eos_token:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            "the model's tokenizer has neither a chat template nor an eos_token, so that no answer would have an end; "
            "set eos_token in tokenizer_config.json",
        )
    return layout, (render(row, tokenizer.template, tokenizer.eos_token) for row in rows)


def render(row: Row, template: ChatTemplate | None, eos_token: str | None) -> RenderedRow:
    """Return a row with the text that SFTTrainer tokenizes for it."""
    value = row.value
    if value is None:
        return RenderedRow(row, None)
    if isinstance(value, Conversation):
        if template is None:
            return _unusable(row, "the model has no chat template")
        try:
            text = template.render(value.messages)
        except TemplateRefused as refusal:
            return _unusable(row, str(refusal))
        if not text.strip():
            return _unusable(row, "the chat template renders it to nothing")
        return RenderedRow(row, text)
    if not eos_token:
        return _unusable(row, "the tokenizer has no eos_token to end the completion with")
    end = "" if value.completion.endswith(eos_token) else eos_token
    return RenderedRow(row, f"{value.prompt}{value.completion}{end}")


def _unusable(row: Row, problem: str) -> RenderedRow:
    return RenderedRow(row._replace(value=None, problem=problem), None)
