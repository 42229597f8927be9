"""Would the constants be others without one of the sources, and would they predict it then? Every judged rate is fitted anew each time.

The fit minimises the mean over the remaining sources of the median absolute logarithm of predicted / measured, so that no large source
decides alone, one rate at a time on a grid around its default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from finetune_operator.planner.roofline.rates import DEFAULT_RATES, Rates
from speed.report import Scored, figures, group_errors

FITTED: Final = (
    "matmul",
    "bandwidth",
    "dequantization",
    "grouped_dequantization",
    "kernel_seconds",
    "forward_launch_seconds",
    "backward_launch_seconds",
    "micro_seconds",
    "step_seconds",
    "overlap",
)
FACTORS: Final = (0.5, 0.7, 0.85, 1.0, 1.15, 1.4, 2.0)
SHARES: Final = frozenset({"matmul", "bandwidth", "overlap"})
ROUNDS: Final = 2


def leave_one_out(rows: Sequence[Scored]) -> dict[str, dict[str, object]]:
    """Return for each source its error with the constants as they are, and with those fitted on all other sources."""
    headline = [item for item in rows if item.is_headline]
    found: dict[str, dict[str, object]] = {}
    for source in sorted({item.row.source for item in headline}):
        without = fitted([item for item in headline if item.row.source != source])
        own = [item for item in headline if item.row.source == source]
        found[source] = {
            "default": figures(own, lambda case: case.tokens_per_second(DEFAULT_RATES))["median_abs_error"],
            "fitted_without_it": figures(own, lambda case: case.tokens_per_second(without))["median_abs_error"],  # noqa: B023
            "rates": {name: getattr(without, name) for name in FITTED},
        }
    return found


def fitted(rows: Sequence[Scored]) -> Rates:
    """Return the rates that fit `rows` best."""
    best, score = DEFAULT_RATES, loss(rows, DEFAULT_RATES)
    for _ in range(ROUNDS):
        for name in FITTED:
            start = float(getattr(DEFAULT_RATES, name))
            for factor in FACTORS:
                value = start * factor
                if name in SHARES and value > 1.0:
                    continue
                candidate = replace(best, **{name: float(f"{value:.4g}")})
                tried = loss(rows, candidate)
                if tried < score:
                    best, score = candidate, tried
    return best


def loss(rows: Sequence[Scored], rates: Rates) -> float:
    """Return the mean over sources of the median over groups of |ln(predicted / measured)|."""
    by_source: dict[str, list[Scored]] = {}
    for item in rows:
        by_source.setdefault(item.row.source, []).append(item)
    errors = [group_errors(part, lambda case: case.tokens_per_second(rates)) for part in by_source.values()]
    return sum(median(abs(math.log1p(e)) for e in found.values()) for found in errors if found) / len(errors)
