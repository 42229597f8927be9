"""How rows can be laid out, and which layouts each objective learns from: CRD rules, inspection, trainer and docs all read these tables.

An objective that is not offered yet may stand here already; `dataset.format` offers the layouts of those that are (tests/api/test_layouts.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Layout(StrEnum):
    """How the columns of a row are to be read."""

    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt-completion"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    TEXT = "text"
    PREFERENCE = "preference"
    KTO = "kto"
    PROMPT = "prompt"
    CLASSIFICATION = "classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - tokens of a text
    SCORED_PAIR = "scored-pair"
    TRIPLET = "triplet"
    PAIR = "pair"


class LayoutColumns(NamedTuple):
    """The columns of a layout under their own names; `dataset.columns` may name others."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Needed and optional ones."""
        return self.needed + self.optional


LAYOUT_COLUMNS: Final[Mapping[Layout, LayoutColumns]] = MappingProxyType(
    {
        Layout.MESSAGES: LayoutColumns(("messages",), ("tools",)),
        Layout.PROMPT_COMPLETION: LayoutColumns(("prompt", "completion")),
        Layout.ALPACA: LayoutColumns(("instruction", "output"), ("input",)),
        Layout.SHAREGPT: LayoutColumns(("conversations",), ("system", "tools")),
        Layout.TEXT: LayoutColumns(("text",)),
        Layout.PREFERENCE: LayoutColumns(("chosen", "rejected"), ("prompt", "tools")),
        Layout.KTO: LayoutColumns(("prompt", "completion", "label"), ("tools",)),
        Layout.PROMPT: LayoutColumns(("prompt",), ("tools",)),
        Layout.CLASSIFICATION: LayoutColumns(("text", "label"), ("text_pair",)),
        Layout.TOKEN_CLASSIFICATION: LayoutColumns(("tokens", "tags")),
        Layout.SCORED_PAIR: LayoutColumns(("sentence1", "sentence2", "score")),
        Layout.TRIPLET: LayoutColumns(("anchor", "positive", "negative")),
        Layout.PAIR: LayoutColumns(("anchor", "positive")),
    }
)

_DIALOGUES: Final = (Layout.MESSAGES, Layout.PROMPT_COMPLETION, Layout.ALPACA, Layout.SHAREGPT)
_PAIRS: Final = (Layout.SCORED_PAIR, Layout.TRIPLET, Layout.PAIR)

OBJECTIVE_LAYOUTS: Final[Mapping[str, tuple[Layout, ...]]] = MappingProxyType(
    {
        "sft": _DIALOGUES,
        "pretrain": (Layout.TEXT,),
        "dpo": (Layout.PREFERENCE,),
        "orpo": (Layout.PREFERENCE,),
        "reward": (Layout.PREFERENCE,),
        "kto": (Layout.KTO,),
        "grpo": (Layout.PROMPT,),
        "rloo": (Layout.PROMPT,),
        "distill": _DIALOGUES,
        "classification": (Layout.CLASSIFICATION,),
        "token-classification": (Layout.TOKEN_CLASSIFICATION,),
        "embedding": _PAIRS,
        "reranker": (Layout.SCORED_PAIR,),
    }
)
"""By the objective's name in the spec. Where rows fit several layouts, `format: auto` takes the first of them."""


READ_TOGETHER: Final = frozenset({"reranker"})
"""Objectives whose model reads the two texts of a pair as one sequence."""


def layouts_with(column: str, layouts: Iterable[Layout] = tuple(Layout)) -> tuple[Layout, ...]:
    """Return the layouts that have a column of this name."""
    return tuple(layout for layout in layouts if column in LAYOUT_COLUMNS[layout].all)


def listed(words: Iterable[str], last: str = "or") -> str:
    """Return words as a sentence has them: a, b or c."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end
