"""Which rows share a sequence: best-fit decreasing over the lengths of all rows, one pure algorithm for the inspection, the planner and the trainer.

The plan needs the number of sequences before anything is trained, so what the inspection counts must be what the trainer packs, to the last
sequence. TRL 1.16 packs each thousand rows by itself (`datasets.map`), through a private function, in an image that the inspection has not;
over one thousand rows the two make equally many sequences (tests/trainer/test_packing.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from finetune_operator.api.inspection import PackedRows


class Sequences(NamedTuple):
    """Sequences of one make, so many of them: the lengths of their rows, in their order."""

    copies: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of one sequence."""
        return sum(self.lengths)


def packed_rows(lengths: Mapping[int, int], capacity: int) -> PackedRows:
    """Return how many sequences `pack` makes; there is at least one row."""
    made = pack(lengths, capacity)
    return PackedRows(
        sequences=sum(each.copies for each in made), longest=max((each.tokens for each in made), default=0)
    )


class _Open(NamedTuple):
    """Sequences of one make while rows are still added."""

    copies: int
    rows: tuple[tuple[int, int], ...]
    """Lengths, and how many rows of each follow one another."""


def pack(lengths: Mapping[int, int], capacity: int) -> list[Sequences]:
    """Return the sequences that rows make, given how often each length occurs.

    Longer rows count as `capacity` tokens, for training cuts them. Rows are placed from the longest on, each where the least room is left
    (arXiv 2404.10830, §3.2). Equal rows are placed together: the cost grows with the number of different lengths, not with that of rows.
    """
    counts: dict[int, int] = defaultdict(int)
    for length, count in lengths.items():
        if length > 0:
            counts[min(length, capacity)] += count
    opened: dict[int, list[_Open]] = {}
    rooms: list[int] = []  # the keys of `opened`, ascending

    def put(room: int, sequences: _Open) -> None:
        if room not in opened:
            opened[room] = []
            insort(rooms, room)
        opened[room].append(sequences)

    def take(length: int) -> tuple[int, _Open] | None:
        index = bisect_left(rooms, length)
        if index == len(rooms):
            return None
        room = rooms[index]
        found = opened[room].pop(0)
        if not opened[room]:
            del opened[room], rooms[index]
        return room, found

    for length in sorted(counts, reverse=True):
        left = counts[length]
        while left:
            room, sequences = take(length) or (capacity, _Open(-(-left // (capacity // length)), ()))
            # The row that is placed makes its sequence the fullest that can take another of this length: each is filled in turn.
            each = room // length
            full = min(sequences.copies, left // each)
            if full:
                put(room - each * length, _Open(full, (*sequences.rows, (length, each))))
                left -= full * each
            untouched = sequences.copies - full
            if untouched and left:
                put(room - left * length, _Open(1, (*sequences.rows, (length, left))))
                left, untouched = 0, untouched - 1
            if untouched:
                put(room, _Open(untouched, sequences.rows))
    return [
        Sequences(each.copies, tuple(length for length, times in each.rows for _ in range(times)))
        for room in rooms
        for each in opened[room]
    ]
