"""What each training program does with a row: one module per program, chosen by the row's `framework`."""

from __future__ import annotations

from typing import Final

from accuracy.rows import Row
from accuracy.stacks import (
    fms,
    fsdp_qlora,
    legacy_trainer,
    litgpt,
    peft_comparison,
    torchtitan,
    torchtune,
    transformers_trainer,
)
from accuracy.stacks.stack import GENERIC, Stack

STACKS: Final[tuple[Stack, ...]] = (
    fms.STACK,
    fsdp_qlora.STACK,
    litgpt.STACK,
    litgpt.FORERUNNER,
    peft_comparison.STACK,
    torchtitan.STACK,
    torchtune.STACK,
    legacy_trainer.STACK,
    transformers_trainer.STACK,
)


def stack_of(row: Row) -> Stack:
    """Return the program of a row; one that is not known is read by its columns alone."""
    framework = row.text("framework").lower()
    return next((stack for stack in STACKS if stack.runs(framework)), GENERIC)
