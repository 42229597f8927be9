"""From a row to tokens and labels: which tokens the loss counts is decided here, token by token.

TRL would do it inside `datasets.map`, once per rank, and logs decoded row content when a prompt is no prefix of its row. Here it is one
pass per pod with the tokenizer that inspect counts with, and what is said about a row is a file, a line and a reason. No torch, no
transformers: a rank encodes while it imports those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.chat_template import ChatTemplate, TemplateRefused
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rendering import Text
from finetune_trainer.rows import Conversation, Message, PromptCompletion, RowValue, Tools
from finetune_trainer.tokenizer_files import TokenizerFiles

IGNORED: Final = -100
"""The label of a token that the loss does not count."""

_MARK: Final = "\ue0a1answer\ue0a1"
"""Characters for private use, which no template looks for."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it."""

    tokens: list[int]
    labels: list[int]

    @property
    def is_trainable(self) -> bool:
        """Whether the loss counts any token; the first one is never predicted."""
        return any(label != IGNORED for label in self.labels[1:])


class Encoder:
    """Encodes rows with one tokenizer."""

    def __init__(
        self, files: TokenizerFiles, *, completions_only: bool, max_length: int, truncation: str = "right"
    ) -> None:
        self._files = files
        self._completions_only = completions_only
        self._kept = slice(max_length) if truncation == "right" else slice(-max_length, None)

    def encode(self, value: RowValue, text: str) -> Encoded:
        """Return the tokens and labels of a row and its rendered text, cut to the length on the side that the spec says."""
        is_chat = isinstance(value, Conversation)
        encoding = self._files.tokenizer.encode(text, add_special_tokens=not is_chat)
        tokens = list(encoding.ids)
        if not self._completions_only:
            labels = list(tokens)
        elif isinstance(value, Conversation):
            labels = labels_in(tokens, encoding.offsets, self._answers(value, text))
        elif isinstance(value, PromptCompletion):
            prompt = self._files.tokenizer.encode(value.prompt).ids
            # Tokens may merge across the border: the answer starts where the two differ.
            start = next(
                (i for i, pair in enumerate(zip(prompt, tokens, strict=False)) if pair[0] != pair[1]), len(prompt)
            )
            labels = [IGNORED] * min(start, len(tokens)) + tokens[start:]
        else:
            raise TypeError(f"a {type(value).__name__} has no answer to be encoded with labels")
        return Encoded(tokens[self._kept], labels[self._kept])

    def _answers(self, value: Conversation, text: str) -> list[Span]:
        template = self._files.template
        if template is None:
            raise AssertionError("read_rendered_rows refuses conversations without a template")
        if template.marks_generation:
            return template.render_with_spans(value.messages, value.tools)[1]
        return answer_spans(value.messages, _renderer(template, value.tools), text)


def pieces(length: int, max_length: int) -> list[tuple[int, int]]:
    """Return where a document of `length` tokens is cut into pieces of at most `max_length` (2 or more) tokens.

    Each begins with the last token of the one before, because a piece's first token is predicted from nothing: so every token but the document's
    first is predicted once, and no piece has fewer than two tokens.
    """
    return [(start, min(start + max_length, length)) for start in range(0, length - 1, max_length - 1)]


def _renderer(template: ChatTemplate, tools: Tools | None) -> Callable[[Sequence[Message], bool], str]:
    return lambda messages, prompt: template.render(messages, tools=tools, add_generation_prompt=prompt)


def answer_tokens(files: TokenizerFiles, text: Text) -> tuple[list[int], int]:
    """Return the tokens of a prompt with its answer, and with which of them the answer begins.

    Tokens may merge across the border: the answer then begins where the prompt alone has other tokens (as in TRL 1.16's trainers).
    """
    adds = not text.by_template
    tokens = list(files.tokenizer.encode(text.text, add_special_tokens=adds).ids)
    prompt = files.tokenizer.encode(text.text[: text.prompt], add_special_tokens=adds).ids
    shared = min(len(prompt), len(tokens))
    return tokens, next((index for index in range(shared) if prompt[index] != tokens[index]), shared)


def labels_in(tokens: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Return labels for tokens that start inside one of the spans of the text."""
    return [
        token if last > first and any(start <= first < end for start, end in spans) else IGNORED
        for token, (first, last) in zip(tokens, offsets, strict=True)
    ]


def answer_spans(
    messages: Sequence[Message], render: Callable[[Sequence[Message], bool], str], text: str
) -> list[Span]:
    """Return where the assistant's turns lie in the rendered text, found by rendering the turns before each.

    Raises:
        TrainerFailure: The template renders earlier turns differently once later ones follow, or refuses them alone, so that nothing can
            be told.
    """
    spans = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        try:
            before = render(messages[:index], True)
            through = text if index == len(messages) - 1 else render(messages[: index + 1], False)
            end = len(through) if text.startswith(through) else _end_by_what_follows(messages, index, render, text)
        except TemplateRefused as refusal:
            raise _unknown_answers(f"cannot render the first turns of a conversation alone ({refusal})") from None
        if not text.startswith(before) or end is None or end < len(before):
            raise _unknown_answers("renders earlier turns differently once later ones follow")
        spans.append((len(before), end))
    return spans


def _end_by_what_follows(
    messages: Sequence[Message], index: int, render: Callable[[Sequence[Message], bool], str], text: str
) -> int | None:
    """Return where an assistant's turn ends whose text depends on being the last one, None where that cannot be told.

    Qwen 3 writes an empty thought into the last turn alone. Another answer in the place of this one shows what is written after it: alone the end of
    the turn, within the conversation that end and all that follows. What follows is then cut off the text, which must end with exactly that.
    """
    marked = [*messages[:index], Message("assistant", _MARK), *messages[index + 1 :]]
    alone = render(marked[: index + 1], False).split(_MARK)
    within = render(marked, False).split(_MARK)
    if len(alone) != 2 or len(within) != 2 or not within[1].startswith(alone[1]):
        return None
    follows = within[1][len(alone[1]) :]
    end = len(text) - len(follows)
    return end if text.endswith(follows) and text[:end].endswith(alone[1]) else None


def _unknown_answers(why: str) -> TrainerFailure:
    return TrainerFailure(
        ExitCode.BAD_SPEC,
        f"training.lossOn: completions needs to know where answers begin, and the model's chat template {why}; "
        "mark answers in the template with {% generation %}, or set training.lossOn: all",
    )
