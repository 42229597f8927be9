"""Rewards for answers that are a number: found in free text, compared as decimals, never as text or binary fractions."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

_NUMBER: Final = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)")
_MARKED: Final = re.compile(r"####\s*(?:[$€£]\s*)?(" + _NUMBER.pattern + ")")
_FINAL: Final = re.compile(_MARKED.pattern + r"\s*[.%]?\s*\Z")
LONGEST_NUMBER: Final = 100
"""Digits; a model that repeats a digit for ever must not cost the step its time."""


def number_in(text: str) -> Decimal | None:
    """Return the number that a text gives as its answer: the last one behind ####, or else the last one at all; None without any."""
    marked = [match[1] for match in _MARKED.finditer(text)]
    found = marked or [match[0] for match in _NUMBER.finditer(text) if match[0]]
    if not found or len(found[-1]) > LONGEST_NUMBER:
        return None
    try:
        return Decimal(found[-1].replace(",", ""))
    except InvalidOperation:
        return None


def number_of(value: object) -> Decimal | None:
    """Return the number of a row's column: a number, or a text that gives one."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return Decimal(str(value)) if value == value and abs(value) != float("inf") else None
    return number_in(value) if isinstance(value, str) else None


def exact_number(completion: str, right: Decimal) -> float:
    """Return 1.0 where the completion's number equals the right one."""
    return float(number_in(completion) == right)


def numeric_closeness(completion: str, right: Decimal) -> float:
    """Return 1 - |found - right| / max(|right|, 1), at least 0.0; 0.0 without a number."""
    found = number_in(completion)
    if found is None:
        return 0.0
    return max(0.0, 1.0 - float(abs(found - right) / max(abs(right), Decimal(1))))


def answer_format(completion: str) -> float:
    """Return 1.0 where the completion has exactly one marked answer, #### and a number, and ends with it."""
    return float(completion.count("####") == 1 and _FINAL.search(completion) is not None)
