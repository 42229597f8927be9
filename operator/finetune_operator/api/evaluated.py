"""What an evaluation after the training found: written by the trainer beside the checkpoints, read by publication, status, card and CLI."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pydantic import Field

from finetune_operator.api.model import ReadModel

EVALUATION_FILE: Final = "evaluation.json"
"""In the folder of a job's checkpoints."""

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
)
_COMPARISON: Final = re.compile("([<>]=?)(.*)")


class Figure(ReadModel):
    """One number, of the base model and of the tuned one."""

    name: str = Field(description="Such as rouge1.")
    base: float | None = Field(None, description="Of the model as it was before; absent where it has none.")
    tuned: float = Field(description="Of the model that was trained.")


class Evaluated(ReadModel):
    """An evaluation of the final checkpoint."""

    uid: str
    step: int = Field(description="Of the checkpoint.")
    rows: int
    seconds: float
    figures: tuple[Figure, ...]


def unmet(required: Mapping[str, str], figures: tuple[Figure, ...]) -> list[str]:
    """Return in words which requirements (number → comparison) the tuned model does not meet; one without a number is not met."""
    found = {figure.name: figure.tuned for figure in figures}
    problems = []
    for name, comparison in required.items():
        parts = _COMPARISON.fullmatch(comparison)
        if parts is None:
            raise ValueError(f"evaluation.require.{name}: {comparison} is no comparison; write one such as >=0.5")
        sign, bound = parts.groups()
        if name not in found:
            known = ", ".join(sorted(found)) or "nothing"
            problems.append(f"{name} was not measured, {comparison} is required (measured: {known})")
        elif not _COMPARISONS[sign](found[name], float(bound)):
            problems.append(f"{name} is {found[name]:.4g}, {comparison} is required")
    return problems
