"""What each training program does with a row: one module per program, chosen by the row's `framework`."""

from __future__ import annotations

from accuracy.rows import Row
from accuracy.stacks.stack import GENERIC, Stack

STACKS: tuple[Stack, ...] = ()


def stack_of(row: Row) -> Stack:
    """Return the program of a row; one that is not known is taken for the transformers Trainer."""
    framework = row.text("framework").lower()
    return next((stack for stack in STACKS if stack.runs(framework)), GENERIC)
