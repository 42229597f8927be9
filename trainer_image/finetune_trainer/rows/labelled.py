"""Rows for encoders: texts and words with classes, pairs with a score, anchors with what belongs to them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Final

from finetune_trainer.rows.kinds import kind_of, text_problem
from finetune_trainer.rows.layout import RowLayout
from finetune_trainer.rows.values import LabelledText, LabelledWords, PositivePair, ScoredPair

CLASS_NAME_LIMIT: Final = 100
"""Characters. A longer text is an answer and no name of a class; names are shown in the report and saved in the model's config."""


def labelled_text(row: Mapping[str, object], layout: RowLayout) -> LabelledText | str:
    """Return a text, or two that are read together, with the name of its class."""
    columns = layout.columns
    text, pair = row[columns["text"]], row.get(columns["text_pair"])
    problem = text_problem(text, columns["text"])
    if problem is None and pair is not None:
        problem = text_problem(pair, columns["text_pair"])
    if problem is not None:
        return problem
    name = _class_name(row[columns["label"]])
    if name is None:
        return f"column {columns['label']} is {_not_a_class(row[columns['label']])}"
    return LabelledText(str(text), None if pair is None else str(pair), name)


def labelled_words(row: Mapping[str, object], layout: RowLayout) -> LabelledWords | str:
    """Return the words of a text with the name of each one's class."""
    words_column, tags_column = layout.columns["tokens"], layout.columns["tags"]
    words, tags = row[words_column], row[tags_column]
    for column, value in ((words_column, words), (tags_column, tags)):
        if not isinstance(value, list):
            return f"column {column} is {kind_of(value)}, not a list"
        if not value:
            return f"column {column} is empty"
    assert isinstance(words, list)  # noqa: S101 - checked above, for mypy
    assert isinstance(tags, list)  # noqa: S101
    if len(words) != len(tags):
        return f"column {words_column} has {len(words)} entries and column {tags_column} has {len(tags)}"
    for index, word in enumerate(words, start=1):
        if not isinstance(word, str) or not word.strip():
            return f"entry {index} of column {words_column} is {'empty' if isinstance(word, str) else kind_of(word) + ', not text'}"
    names: list[str] = []
    for index, tag in enumerate(tags, start=1):
        name = _class_name(tag)
        if name is None:
            return f"entry {index} of column {tags_column} is {_not_a_class(tag)}"
        names.append(name)
    return LabelledWords(tuple(words), tuple(names))


def _class_name(value: object) -> str | None:
    """Return the name of a class: a short text, a whole number or a truth value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and 0 < len(value.strip()) <= CLASS_NAME_LIMIT:
        return value.strip()
    return None


def _not_a_class(value: object) -> str:
    if isinstance(value, str):
        return f"longer than {CLASS_NAME_LIMIT} characters, which is no name of a class" if value.strip() else "empty"
    return f"{kind_of(value)}, not the name or the whole number of a class"


def scored_pair(row: Mapping[str, object], layout: RowLayout) -> ScoredPair | str:
    """Return two texts and their score."""
    columns = layout.columns
    texts = _texts(row, (columns["sentence1"], columns["sentence2"]))
    if isinstance(texts, str):
        return texts
    score = row[columns["score"]]
    if isinstance(score, str):  # CSV has only text
        with contextlib.suppress(ValueError):
            score = float(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        kind = "not finite" if isinstance(score, float) else f"{kind_of(score)}, not a number"
        return f"column {columns['score']} is {kind}"
    return ScoredPair(texts[0], texts[1], float(score))


def positive_pair(row: Mapping[str, object], layout: RowLayout) -> PositivePair | str:
    """Return an anchor with its positive and, where the layout has one, its negative."""
    texts = _texts(row, layout.needed)
    return texts if isinstance(texts, str) else PositivePair(*texts)


def _texts(row: Mapping[str, object], columns: tuple[str, ...]) -> list[str] | str:
    for column in columns:
        if (problem := text_problem(row[column], column)) is not None:
            return problem
    return [str(row[column]) for column in columns]
