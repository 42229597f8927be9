"""What a row becomes, whatever its columns were called: the values that rendering, encoders and inspection work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Message(NamedTuple):
    """One turn. `more` are its further keys as the row has them, such as tool_calls, tool_call_id, name and reasoning_content."""

    role: str
    content: str
    more: Mapping[str, object] | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the message as chat templates take it."""
        return {"role": self.role, "content": self.content, **(self.more or {})}


Turns = tuple[Message, ...]
Tools = tuple[Mapping[str, object], ...]
"""Descriptions of functions (JSON schema), which the chat template renders."""


class Conversation(NamedTuple):
    """Turns that the chat template renders; the last one is the assistant's."""

    messages: Turns
    tools: Tools | None = None


class PromptCompletion(NamedTuple):
    """Plain text: the prompt, then the completion and the tokenizer's end token, with no chat template."""

    prompt: str
    completion: str


class RawText(NamedTuple):
    """One document."""

    text: str


class Preference(NamedTuple):
    """Two answers to one prompt: all three plain text, or all three turns. The prompt may be empty text, never empty turns."""

    prompt: str | Turns
    chosen: str | Turns
    rejected: str | Turns
    tools: Tools | None = None


class JudgedCompletion(NamedTuple):
    """A prompt, its answer and whether that is wanted (KTO): both plain text, or both turns."""

    prompt: str | Turns
    completion: str | Turns
    is_desirable: bool
    tools: Tools | None = None


class Prompt(NamedTuple):
    """A prompt whose answers are generated, and the row's further columns, which rewards are handed."""

    prompt: str | Turns
    columns: Mapping[str, object]
    tools: Tools | None = None


class LabelledText(NamedTuple):
    """A text, or two that are read together, and the name of its class."""

    text: str
    text_pair: str | None
    label: str


class LabelledWords(NamedTuple):
    """The words of a text and the name of each word's class."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


class ScoredPair(NamedTuple):
    """Two texts and how alike they are."""

    first: str
    second: str
    score: float


class PositivePair(NamedTuple):
    """A text, one that belongs to it, and (layout triplet) one that does not."""

    anchor: str
    positive: str
    negative: str | None = None


RowValue = (
    Conversation
    | PromptCompletion
    | RawText
    | Preference
    | JudgedCompletion
    | Prompt
    | LabelledText
    | LabelledWords
    | ScoredPair
    | PositivePair
)


class Row(NamedTuple):
    """One row: its value, or why it cannot be used."""

    file: str
    line: int
    value: RowValue | None
    problem: str | None = None
