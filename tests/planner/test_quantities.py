"""Kubernetes quantities are read exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.planner.quantities import parse_quantity

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("250m", Fraction(1, 4)),
        ("1.5", Fraction(3, 2)),
        (".5Gi", Fraction(GIB, 2)),
        ("5.", Fraction(5)),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("2Ki", Fraction(2048)),
        ("263582532Ki", Fraction(263582532 * 1024)),
        ("64Mi", Fraction(64 * 2**20)),
        ("16Gi", Fraction(16 * GIB)),
        ("2k", Fraction(2000)),
        ("128974848M", Fraction(128974848 * 10**6)),
        ("12G", Fraction(12 * 10**9)),
        ("1E", Fraction(10**18)),
        ("1E3", Fraction(1000)),
        ("12e6", Fraction(12_000_000)),
        ("5e-1", Fraction(1, 2)),
    ],
)
def test_quantities_are_read_exactly(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1gi", "1 Gi", "-1", "1e999", "one", "١Gi", "1.2.3"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a Kubernetes quantity; write a number with a suffix such as 500m"):
        parse_quantity(text)


@given(st.integers(min_value=0, max_value=2**70))
def test_every_way_to_write_a_number_of_bytes_means_the_same(kibibytes: int) -> None:
    same = {
        parse_quantity(f"{kibibytes}Ki"),
        parse_quantity(str(kibibytes * 1024)),
        parse_quantity(f"{kibibytes * 1024}e0"),
    }
    assert same == {Fraction(kibibytes * 1024)}
    assert parse_quantity(f"{kibibytes * 1024 * 1000}m") == kibibytes * 1024
