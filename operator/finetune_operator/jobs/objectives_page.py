"""docs/reference/objectives.md, from the tables that API, planner and trainer read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from finetune_operator.api.compatibility import OBJECTIVE_MEANINGS, Method, Objective, Strategy
from finetune_operator.api.impossible import OBJECTIVE_IMPOSSIBLE, impossibility
from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS
from finetune_operator.api.preference import OBJECTIVE_SETTINGS
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.training import DEFAULT_LEARNING_RATES, LEARNING_RATE_SHARES

FILE_NAME: Final = "objectives.md"
_PROVEN, _ALLOWED, _REFUSED = "✓", "·", "–"


def objectives_page(generated: str) -> str:
    """Return the page; `generated` is the line that says how it was made."""
    methods = tuple(method for method in Method if method in DEFAULT_LEARNING_RATES)
    rows = (
        (
            f"`{objective}`",
            OBJECTIVE_MEANINGS[objective],
            ", ".join(f"`{layout}`" for layout in OBJECTIVE_LAYOUTS[objective]),
            f"[`training.{objective}`](finetunejob.md)" if objective in OBJECTIVE_SETTINGS else "",
            f"{LEARNING_RATE_SHARES[objective]:g} ×",
        )
        for objective in Objective
    )
    matrix = (
        (f"`{objective}`", f"`{method}`", *(_cell(objective, method, strategy) for strategy in Strategy))
        for objective in Objective
        for method in methods
    )
    refused = (
        (f"`{row.objective}`", f"`{row.method or 'any'}`", f"`{row.strategy or 'any'}`", row.why, row.remedy)
        for row in OBJECTIVE_IMPOSSIBLE
    )
    return "\n".join(
        (
            "# Objectives",
            "",
            generated,
            "",
            "What a job optimises (`spec.objective`). The default learning rate is that of the method (`training.learningRate` in",
            "[finetunejob.md](finetunejob.md)) times the last column. What each measures beside its loss: [metrics.md](metrics.md#measures).",
            "How the reference of preference training is asked: [explanation/preferences.md](../explanation/preferences.md).",
            "",
            *_table(("objective", "what", "formats of rows", "settings", "learning rate"), rows),
            "",
            "## Objective, method, strategy",
            "",
            f"{_PROVEN}: a test trains this very combination and compares it (`api/proven.py`, from which the tests take their cases).",
            f"{_ALLOWED}: allowed; objective, method and strategy are tested, but not together. {_REFUSED}: refused, with the reason in",
            "the table below or in [strategies.md](strategies.md#combinations-that-do-not-work).",
            "",
            *_table(("objective", "method", *(f"`{strategy}`" for strategy in Strategy)), matrix),
            "",
            *_table(("objective", "method", "strategy", "why", "instead"), refused),
            "",
        )
    )


def _cell(objective: Objective, method: Method, strategy: Strategy) -> str:
    if impossibility(method, strategy, "gpu", objective=objective) is not None:
        return _REFUSED
    return _PROVEN if (method, strategy) in PROVEN[objective] else _ALLOWED


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
