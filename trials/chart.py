"""Curves that a person can see in a terminal and in Markdown: no image, no library."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Return the means of `width` parts of about equal length, fewer where there are fewer values."""
    count = min(width, len(values))
    edges = [round(index * len(values) / count) for index in range(count + 1)] if count else []
    return [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges) if end > start]


def chart(values: Sequence[float], *, width: int = 60, height: int = 8) -> str:
    """Return a curve as `height` lines of bars, with the highest and the lowest value beside them."""
    points = smoothed(values, width)
    if not points:
        return "(no values)"
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    steps = height * len(BARS)
    filled = [max(1, round((point - low) / span * steps)) for point in points]
    lines = []
    for row in reversed(range(height)):
        cells = (min(len(BARS), max(0, fill - row * len(BARS))) for fill in filled)
        label = f"{high:>10.4g} " if row == height - 1 else f"{low:>10.4g} " if row == 0 else " " * 11
        lines.append(label + "".join(BARS[cell - 1] if cell else " " for cell in cells).rstrip())
    return "\n".join(lines)
