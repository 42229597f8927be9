"""Numbers are found in what models write, and compared as numbers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.rewards.numbers import answer_format, exact_number, number_in, number_of, numeric_closeness


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She sold 48/2 = 24 clips.\n#### 72", "72"),
        ("#### 1,234.50", "1234.5"),
        ("#### $18", "18"),
        ("first #### 3, then #### 4 and 5 more", "4"),
        ("it is 7, or rather -8.", "-8"),
        ("about .5", "0.5"),
        ("1,2 and 3,456", "3456"),
    ],
)
def test_the_answer_is_the_last_marked_number_or_the_last_one(text: str, number: str) -> None:
    assert number_in(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "no number", "####", "9" * 101, "1" * 100_000])
def test_a_text_without_a_usable_number_has_none(text: str) -> None:
    assert number_in(text) is None


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=3, allow_nan=False))
def test_a_number_that_is_written_is_found_again(number: Decimal) -> None:
    assert number_in(f"Therefore it is #### {number:,}") == number
    assert exact_number(f"#### {number}", number) == 1.0
    assert numeric_closeness(f"{number}", number) == 1.0


@given(st.text(max_size=200), st.decimals(min_value=-1000, max_value=1000, places=2))
def test_rewards_lie_between_0_and_1_whatever_is_written(text: str, right: Decimal) -> None:
    values = (exact_number(text, right), numeric_closeness(text, right), answer_format(text))
    assert all(0.0 <= value <= 1.0 for value in values)


def test_closeness_falls_with_the_relative_distance() -> None:
    values = [numeric_closeness(text, Decimal(10)) for text in ("10", "9", "12", "25", "none")]
    assert values == pytest.approx([1.0, 0.9, 0.8, 0.0, 0.0])
    assert numeric_closeness("0.5", Decimal(0)) == 0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [("so\n#### 5", 1.0), ("#### 5.", 1.0), ("#### 5 apples", 0.0), ("#### 5 #### 5", 0.0), ("5", 0.0), ("####", 0.0)],
)
def test_the_format_is_one_marked_answer_at_the_end(text: str, value: float) -> None:
    assert answer_format(text) == value


def test_a_column_has_a_number_as_number_or_as_text() -> None:
    assert [number_of(value) for value in (3, 0.1, "a\n#### 1,000", True, None, float("nan"), [1])] == [
        *(Decimal(3), Decimal("0.1"), Decimal(1000)),
        *(None, None, None, None),
    ]
