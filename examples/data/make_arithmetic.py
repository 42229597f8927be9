"""Arithmetic word problems whose answers can be checked: training data for the demo and the tests, the same bytes for the same seed.

Each line is a JSON object with `question` and `answer`; the answer has its steps and ends with a line `#### <number>`.

    python examples/data/make_arithmetic.py --rows 3000 --output arithmetic.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NAMES = (
    "Ada",
    "Ben",
    "Carla",
    "Dmitri",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Liam",
    "Mei",
    "Nils",
)
THINGS = (
    "apples",
    "bricks",
    "candles",
    "coins",
    "cups",
    "marbles",
    "notebooks",
    "pencils",
    "shells",
    "stamps",
    "tickets",
)
PLACES = ("barn", "cellar", "garage", "kitchen", "library", "office", "shop", "workshop")


class Problem(NamedTuple):
    """A question, its steps, and the number they lead to."""

    question: str
    steps: tuple[str, ...]
    result: int


def gain(rng: random.Random) -> Problem:
    """One addition."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have, more = rng.randint(2, 60), rng.randint(2, 40)
    return Problem(
        f"{name} has {have} {thing} and finds {more} more. How many {thing} does {name} have now?",
        (f"{have} + {more} = {have + more}",),
        have + more,
    )


def loss(rng: random.Random) -> Problem:
    """One subtraction."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have = rng.randint(10, 90)
    gone = rng.randint(1, have - 1)
    return Problem(
        f"There are {have} {thing} on a table. {name} takes {gone} of them away. How many {thing} are left?",
        (f"{have} - {gone} = {have - gone}",),
        have - gone,
    )


def boxes(rng: random.Random) -> Problem:
    """A product and an addition."""
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    count, each, loose = rng.randint(2, 12), rng.randint(2, 12), rng.randint(1, 20)
    return Problem(
        f"In the {place} stand {count} boxes with {each} {thing} in each, and {loose} {thing} lie beside them. "
        f"How many {thing} are there in the {place}?",
        (f"{count} * {each} = {count * each}", f"{count * each} + {loose} = {count * each + loose}"),
        count * each + loose,
    )


def share(rng: random.Random) -> Problem:
    """A division without remainder."""
    thing = rng.choice(THINGS)
    friends, each = rng.randint(2, 9), rng.randint(2, 15)
    total = friends * each
    return Problem(
        f"{friends} friends share {total} {thing} so that all get the same number. How many {thing} does each friend get?",
        (f"{total} / {friends} = {each}",),
        each,
    )


def purchase(rng: random.Random) -> Problem:
    """A product and the change."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    count, price = rng.randint(2, 9), rng.randint(2, 9)
    paid = count * price + rng.randint(1, 20)
    return Problem(
        f"{name} buys {count} {thing} at {price} euros each and pays with {paid} euros. How many euros does {name} get back?",
        (f"{count} * {price} = {count * price}", f"{paid} - {count * price} = {paid - count * price}"),
        paid - count * price,
    )


def journey(rng: random.Random) -> Problem:
    """Two products and their sum."""
    name = rng.choice(NAMES)
    first_hours, first_speed = rng.randint(1, 5), rng.randint(3, 9)
    second_hours, second_speed = rng.randint(1, 5), rng.randint(10, 20)
    walked, ridden = first_hours * first_speed, second_hours * second_speed
    return Problem(
        f"{name} walks {first_hours} hours at {first_speed} km per hour, then cycles {second_hours} hours at {second_speed} km "
        f"per hour. How many km is that in all?",
        (
            f"{first_hours} * {first_speed} = {walked}",
            f"{second_hours} * {second_speed} = {ridden}",
            f"{walked} + {ridden} = {walked + ridden}",
        ),
        walked + ridden,
    )


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (gain, loss, boxes, share, purchase, journey)


def make_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return that many different problems, each question once."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        problem = rng.choice(TEMPLATES)(rng)
        answer = "\n".join((*problem.steps, f"#### {problem.result}"))
        rows.setdefault(problem.question, {"question": problem.question, "answer": answer})
    return list(rows.values())


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Make arithmetic word problems as JSONL.")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if not 0 < options.rows <= 20_000:
        parser.error("--rows must be from 1 to 20000: the templates have not many more different questions")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in make_rows(options.rows, options.seed))
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
