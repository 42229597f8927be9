"""Rows of GSM8K as the trials learn from them: worked solutions, and pairs of a right and a wrong solution of the same question.

Every tenth question is held out, with all its solutions: pairs of one question never stand on both sides.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

SOLUTIONS_FILE: Final = "train.jsonl"
JUDGED_FILE: Final = "example_model_solutions.jsonl"
HELD_OUT: Final = 10
LONGEST_PAIR: Final = 500
"""Characters of a question and the longer of its two solutions, at most about 255 tokens: a cut one has lost the number it was judged by."""

LONGEST_QUESTION: Final = 180
"""Characters of a question to answer, at most about 80 tokens: such have short solutions, and long ones cost the most time."""

Row = dict[str, Any]


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def solutions(row: Row) -> Iterator[Row]:
    """Yield the question with its worked solution."""
    yield {"question": row["question"], "answer": row["answer"]}


def questions(row: Row) -> Iterator[Row]:
    """Yield a short question as a prompt, with the worked solution whose last number rewards compare with."""
    if len(row["question"]) <= LONGEST_QUESTION:
        yield {"prompt": row["question"], "answer": row["answer"]}


def pairs(row: Row) -> Iterator[Row]:
    """Yield every right solution of a question beside every wrong one, as plain texts like those that the model of the first trial has learned."""
    judged = [value for value in row.values() if isinstance(value, dict)]
    right = [each["solution"] for each in judged if each["is_correct"]]
    wrong = [each["solution"] for each in judged if not each["is_correct"]]
    for chosen, rejected in itertools.product(right, wrong):
        if len(row["question"]) + max(len(chosen), len(rejected)) <= LONGEST_PAIR:
            yield {"prompt": row["question"], "chosen": chosen, "rejected": rejected}


def prepare(source: Path, target: Path) -> dict[str, int]:
    """Write the rows of all trials and return how many each file has."""
    target.mkdir(parents=True, exist_ok=True)
    makers: Sequence[tuple[str, str, Callable[[Row], Iterable[Row]], int | None]] = (
        # Of 747 held-out solutions the first hundred: an evaluation of all takes as long as a hundred steps.
        ("solutions", SOLUTIONS_FILE, solutions, 100),
        ("questions", SOLUTIONS_FILE, questions, None),
        ("pairs", JUDGED_FILE, pairs, None),
    )
    counts = {}
    for name, file, make, evaluated in makers:
        kept: dict[bool, list[Row]] = {False: [], True: []}
        for index, row in enumerate(read(source / file)):
            kept[index % HELD_OUT == HELD_OUT - 1].extend(make(row))
        for suffix, rows in (("", kept[False]), ("-held-out", kept[True][:evaluated])):
            (target / f"{name}{suffix}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            counts[f"{name}{suffix}"] = len(rows)
    return counts
