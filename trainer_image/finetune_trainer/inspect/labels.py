"""Which labels rows have, and how often: what a classifier's head is made of, and the balance of what is wanted and not. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rows import JudgedCompletion, LabelledText, LabelledWords, RowValue

LABELS_LIMIT: Final = 1000
"""More names than this are no classes: a report of 256 KiB could not hold them, and most would be in one row."""


def labels_of(value: RowValue) -> Iterable[str]:
    """Return the labels of a row: one per text or answer, one per word."""
    match value:
        case LabelledText():
            return (value.label,)
        case LabelledWords():
            return value.labels
        case JudgedCompletion():
            return ("true" if value.is_desirable else "false",)
        case _:
            return ()


def count_labels(counts: Counter[str], value: RowValue, times: int = 1) -> None:
    """Add the labels of a row that stands there so many times.

    Raises:
        TrainerFailure: There are more than LABELS_LIMIT.
    """
    for label in labels_of(value):
        counts[label] += times
    if len(counts) > LABELS_LIMIT:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"the rows have more than {LABELS_LIMIT} different labels; name the column that has the classes in dataset.columns",
        )


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Return labels in the order of their numbers in the model: by value where all are whole numbers, else by name."""
    names = sorted(counts, key=int) if all(_is_whole(name) for name in counts) else sorted(counts)
    return {name: counts[name] for name in names}


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isascii() and name.removeprefix("-").isdigit()
