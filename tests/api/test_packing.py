"""Best-fit decreasing over lengths: nothing is lost, nothing overflows, and it is as good as placing rows one by one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.packing import pack, packed_rows

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def one_by_one(rows: list[int], capacity: int) -> list[int]:
    """The rooms that best-fit decreasing leaves, by its definition."""
    rooms: list[int] = []
    for row in sorted((min(row, capacity) for row in rows), reverse=True):
        fitting = [room for room in rooms if room >= row]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - row)
    return sorted(rooms)


@given(lengths, st.integers(8, 50))
def test_rows_of_equal_length_placed_together_end_as_if_placed_one_by_one(rows: list[int], capacity: int) -> None:
    made = pack(Counter(rows), capacity)
    rooms = sorted(capacity - each.tokens for each in made for _ in range(each.copies))
    assert rooms == one_by_one(rows, capacity)


@given(lengths, st.integers(8, 50))
def test_every_row_is_in_one_sequence_and_no_sequence_is_too_long(rows: list[int], capacity: int) -> None:
    made = pack(Counter(rows), capacity)
    placed = Counter(length for each in made for _ in range(each.copies) for length in each.lengths)
    assert placed == Counter(min(row, capacity) for row in rows)
    assert packed_rows(Counter(rows), capacity).longest <= capacity


def test_the_cost_does_not_grow_with_the_number_of_rows() -> None:
    billions = packed_rows({100: 10**10, 700: 10**9}, 1000)
    assert billions.sequences == 10**9 + (10**10 - 3 * 10**9) // 10
    assert billions.longest == 1000
