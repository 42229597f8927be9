"""The names of JSON's types, and what is said of a column that has the wrong one; never its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAMES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type."""
    return "null" if value is None else _NAMES.get(type(value), "of an unknown type")


def text_problem(value: object, column: str) -> str | None:
    """Return why a column cannot be read as text."""
    if not isinstance(value, str):
        return f"column {column} is {kind_of(value)}, not text"
    return None if value.strip() else f"column {column} is empty"
