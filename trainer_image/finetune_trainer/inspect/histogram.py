"""Lengths of rows, counted exactly while they stream by and told in at most 64 buckets. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from finetune_operator.api.inspection import HISTOGRAM_BUCKETS, TokenHistogram


def histogram(lengths: Mapping[int, int]) -> TokenHistogram:
    """Return the histogram of lengths, given how often each occurs (at least one does)."""
    minimum, maximum = min(lengths), max(lengths)
    rows = sum(lengths.values())
    total = sum(length * count for length, count in lengths.items())
    edges = _edges(minimum, maximum)
    counts = [0] * (len(edges) - 1)
    for length, count in lengths.items():
        counts[bisect_right(edges, length) - 1] += count
    return TokenHistogram(
        edges=edges,
        counts=tuple(counts),
        minimum=minimum,
        maximum=maximum,
        mean=total / rows,
        median=_quantile(lengths, rows, 1, 2),
        percentile_99=_quantile(lengths, rows, 99, 100),
        total=total,
    )


def _edges(minimum: int, maximum: int) -> tuple[int, ...]:
    """Return ascending edges: one bucket per length while that suffices, else buckets that widen with the length.

    A padded batch costs by its longest row, so a bucket's width matters relative to its length.
    """
    if maximum - minimum < HISTOGRAM_BUCKETS:
        return tuple(range(minimum, maximum + 2))
    start = max(minimum, 1)
    ratio = ((maximum + 1) / start) ** (1 / HISTOGRAM_BUCKETS)
    inner = {int(start * ratio**step) for step in range(1, HISTOGRAM_BUCKETS)}
    return tuple(sorted({minimum, maximum + 1} | {edge for edge in inner if minimum < edge <= maximum}))


def _quantile(lengths: Mapping[int, int], rows: int, numerator: int, denominator: int) -> int:
    """Return the smallest length that at least numerator/denominator of the rows do not exceed."""
    wanted = -(-rows * numerator // denominator)
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    raise AssertionError("more rows than lengths")
