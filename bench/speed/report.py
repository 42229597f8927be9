"""Errors by group and what they say: headline, by source and GPU, worst rows, and the rule of thumb beside it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from accuracy.rows import Row
from accuracy.score import percentile

from finetune_operator.planner.roofline.rates import DEFAULT_RATES, Rates
from speed.prediction import Case, case_of

WORST: Final = 15
Figures = dict[str, float | int | None]
Predict = Callable[[Case], float]


@dataclass(frozen=True)
class Scored:
    """One row, as a case or with why it is none."""

    row: Row
    case: Case | str

    @property
    def is_headline(self) -> bool:
        """Whether it states tokens/s and is fine-tuning, or one of the throughput rows; the others count under `all` and their source."""
        if not self.row.number("tokens_per_s"):
            return False
        return self.row.text("phase") == "finetune" or self.row.text("use") == "throughput"


def scored(rows: Iterable[Row]) -> tuple[Scored, ...]:
    """Return every row with its case."""
    return tuple(Scored(row, case_of(row)) for row in rows)


def group_errors(rows: Iterable[Scored], predict: Predict) -> dict[str, float]:
    """Return the signed error of each group that has a prediction: the median over its rows of predicted / measured − 1."""
    errors: dict[str, list[float]] = {}
    for item in rows:
        if isinstance(item.case, Case):
            error = predict(item.case) / item.case.speed.tokens_per_second - 1
            errors.setdefault(item.row.group, []).append(error)
    return {group: median(found) for group, found in errors.items()}


def figures(rows: Sequence[Scored], predict: Predict) -> Figures:
    """Return groups, coverage and errors, as fractions."""
    groups: dict[str, list[bool]] = {}
    for item in rows:
        groups.setdefault(item.row.group, []).append(isinstance(item.case, Case))
    signed = list(group_errors(rows, predict).values())
    ordered = sorted(abs(error) for error in signed)
    covered = sum(sum(found) / len(found) for found in groups.values())
    return {
        "groups": len(groups),
        "coverage": round(covered / len(groups), 4) if groups else None,
        "median_abs_error": _rounded(percentile(ordered, 0.5)),
        "p90_abs_error": _rounded(percentile(ordered, 0.9)),
        "median_error": round(median(signed), 4) if signed else None,
        "within_25_percent": round(sum(error <= 0.25 for error in ordered) / len(ordered), 4) if ordered else None,
    }


def report(rows: Sequence[Scored], rates: Rates = DEFAULT_RATES) -> dict[str, object]:
    """Return the whole report."""

    def predict(case: Case) -> float:
        return case.tokens_per_second(rates)

    headline = [item for item in rows if item.is_headline]
    baseline = figures(headline, lambda case: case.baseline)
    return {
        **figures(headline, predict),
        "baseline": baseline,
        "all": figures(rows, predict),
        "by_source": {
            name: {**figures(part, predict), "baseline": figures(part, lambda case: case.baseline)["median_abs_error"]}
            for name, part in _parts(rows, lambda item: item.row.source).items()
        },
        "by_gpu": {
            name: figures(part, predict) for name, part in _parts(headline, lambda item: item.row.text("gpu")).items()
        },
        "by_method": {
            name: figures(part, predict) for name, part in _parts(headline, lambda item: item.row.method).items()
        },
        "worst": _worst(headline, rates),
        "not_predicted": _reasons(rows),
    }


def _worst(rows: Sequence[Scored], rates: Rates) -> list[dict[str, object]]:
    errors = group_errors(rows, lambda case: case.tokens_per_second(rates))
    first = {item.row.group: item.case for item in reversed(rows) if isinstance(item.case, Case)}
    found: list[dict[str, object]] = []
    for group in sorted(errors, key=lambda name: -abs(errors[name]))[:WORST]:
        case = first[group]
        time = case.step(rates)
        parts = {name: round(value, 4) for name, value in vars(time).items() if value}
        found.append(
            {
                "group": group,
                "error": round(errors[group], 4),
                "measured_tokens_per_second": round(case.speed.tokens_per_second, 1),
                "predicted_tokens_per_second": round(case.tokens_per_second(rates), 1),
                "predicted_seconds": parts,
            }
        )
    return found


def _parts(rows: Sequence[Scored], key: Callable[[Scored], str]) -> Mapping[str, list[Scored]]:
    parts: dict[str, list[Scored]] = {}
    for item in rows:
        parts.setdefault(key(item), []).append(item)
    return dict(sorted(parts.items()))


def _reasons(rows: Sequence[Scored]) -> dict[str, int]:
    return dict(Counter(f"{item.row.source}: {item.case}" for item in rows if isinstance(item.case, str)).most_common())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
