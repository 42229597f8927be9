"""Durations and intervals as users write them: `30s`, `10m`, `24h`, `7d`, `500steps`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DURATION_PATTERN: Final = r"^[1-9][0-9]*(s|m|h|d)$"
INTERVAL_PATTERN: Final = r"^[1-9][0-9]*(s|m|h|d|steps)$"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> int:
    """Return the seconds that `text` (such as `90s`, `10m`, `24h`, `7d`) stands for.

    Raises:
        ValueError: `text` is not a positive whole number with one of the units s, m, h, d.
    """
    if not re.match(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration; write a whole number and a unit, such as 90s, 10m, 24h or 7d")
    return int(text[:-1]) * _SECONDS[text[-1]]


@dataclass(frozen=True)
class Interval:
    """How often something is done: every so many steps or seconds; exactly one of them is set."""

    steps: int | None
    seconds: int | None


def parse_interval(text: str) -> Interval:
    """Return the interval that `text` (such as `500steps` or `10m`) stands for.

    Raises:
        ValueError: `text` is neither a duration nor a number of steps.
    """
    if not re.match(INTERVAL_PATTERN, text):
        raise ValueError(
            f"{text!r} is not an interval; write a duration such as 10m, or a number of steps such as 500steps"
        )
    if text.endswith("steps"):
        return Interval(steps=int(text.removesuffix("steps")), seconds=None)
    return Interval(steps=None, seconds=parse_duration(text))


def format_duration(seconds: float) -> str:
    """Return a short text for people: `45s`, `12m`, `3h05m`, `2d04h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"
