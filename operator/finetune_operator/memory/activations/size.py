"""A number of bytes as a function of the batch: what a tensor takes is known before tokens and sequences are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_new: Final = tuple.__new__
"""Of sums: a layer's programme makes thousands, and a named tuple's own constructor takes a quarter of their time."""


class Size(NamedTuple):
    """Bytes = token × tokens + pair × sequences × length² + fixed. Tuples, since a layer's programme adds up hundreds of them."""

    token: int = 0
    """Bytes per token of the micro-batch."""
    pair: int = 0
    """Bytes per pair of tokens of one sequence: scores and masks of attention."""
    fixed: int = 0
    """Bytes whatever the batch: weights, their casts and gradients."""

    def plus(self, other: Size) -> Size:
        """Return the sum of both."""
        token, pair, fixed = other
        return _new(Size, (self[0] + token, self[1] + pair, self[2] + fixed))

    def minus(self, other: Size) -> Size:
        """Return this size without `other`."""
        token, pair, fixed = other
        return _new(Size, (self[0] - token, self[1] - pair, self[2] - fixed))

    def times(self, count: int) -> Size:
        """Return the size of `count` of these."""
        return Size(self.token * count, self.pair * count, self.fixed * count)

    def of(self, tokens: int, pairs: int) -> int:
        """Return the bytes for so many tokens and pairs of tokens."""
        return self.token * tokens + self.pair * pairs + self.fixed


NOTHING = Size()

_FIELD: Final = 96
"""Bits of each of the three numbers in a sum of sizes: no model on earth has 2^96 bytes per token."""
_MASK: Final = (1 << _FIELD) - 1
Sum = int
"""Sizes that are added and subtracted as one whole number, which takes a fifth of the time; never negative when it is read."""


def as_sum(size: Size) -> Sum:
    """Return a size as a whole number that can be added to others."""
    token, pair, fixed = size
    return token + (pair << _FIELD) + (fixed << 2 * _FIELD)


def fixed_sum(fixed: int) -> Sum:
    """Return the same of bytes whatever the batch."""
    return fixed << 2 * _FIELD


def from_sum(value: Sum) -> Size:
    """Return the size that a whole number stands for."""
    return _new(Size, (value & _MASK, value >> _FIELD & _MASK, value >> 2 * _FIELD))


def total(sizes: Iterable[Size]) -> Size:
    """Return the sum of all."""
    token = pair = fixed = 0
    for size in sizes:
        token += size.token
        pair += size.pair
        fixed += size.fixed
    return Size(token, pair, fixed)


def highest(points: Iterable[Sum]) -> tuple[Size, ...]:
    """Return those points that no other exceeds in all three respects: the maximum over them is the maximum over all, for every batch."""
    kept: list[Size] = []
    for point in sorted([from_sum(point) for point in set(points)], reverse=True):
        _, pair, fixed = point
        for _, other_pair, other_fixed in kept:
            if other_pair >= pair and other_fixed >= fixed:
                break
        else:
            kept.append(point)
    return tuple(kept)
