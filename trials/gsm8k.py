"""Rows of GSM8K as the trials learn from them: worked solutions, and pairs of a right and a wrong solution of the same question.

Every tenth question is held out, with all its solutions: pairs of one question never stand on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

SOLUTIONS_FILE: Final = "train.jsonl"
JUDGED_FILE: Final = "example_model_solutions.jsonl"
HELD_OUT: Final = 10

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
    """Yield the question as a prompt, with the worked solution whose last number rewards compare with."""
    yield {"prompt": row["question"], "answer": row["answer"]}


def pairs(row: Row) -> Iterator[Row]:
    """Yield a question's right solutions, each beside another wrong one, as far as there are both."""
    judged = [value for value in row.values() if isinstance(value, dict)]
    right = [each["solution"] for each in judged if each["is_correct"]]
    wrong = [each["solution"] for each in judged if not each["is_correct"]]
    for chosen, rejected in zip(right, wrong, strict=False):
        prompt = [{"role": "user", "content": row["question"]}]
        answers = {"chosen": chosen, "rejected": rejected}
        yield {"prompt": prompt} | {
            side: [{"role": "assistant", "content": text}] for side, text in answers.items() if text
        }


def prepare(source: Path, target: Path) -> dict[str, int]:
    """Write the rows of all trials and return how many each file has."""
    target.mkdir(parents=True, exist_ok=True)
    makers: Sequence[tuple[str, str, Callable[[Row], Iterable[Row]]]] = (
        ("solutions", SOLUTIONS_FILE, solutions),
        ("questions", SOLUTIONS_FILE, questions),
        ("pairs", JUDGED_FILE, pairs),
    )
    counts = {}
    for name, file, make in makers:
        kept: dict[bool, list[Row]] = {False: [], True: []}
        for index, row in enumerate(read(source / file)):
            kept[index % HELD_OUT == HELD_OUT - 1].extend(make(row))
        # Of 747 held-out solutions the first hundred: an evaluation of all takes as long as a hundred steps.
        for suffix, rows in (("", kept[False]), ("-held-out", kept[True][:100])):
            (target / f"{name}{suffix}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            counts[f"{name}{suffix}"] = len(rows)
    return counts
