"""Errors by group, and the figures of a set of groups. Pure: predictions come in, numbers go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

UNDER_TOLERANCE = 0.05
"""A group that is predicted more than this share too low counts as under-predicted: the dangerous side."""


@dataclass(frozen=True)
class Outcome:
    """One row with its prediction; `expected` and `upper` are None when it could not be predicted. All in GiB."""

    group: str
    source: str
    method: str
    measured: float
    expected: float | None
    upper: float | None
    launchable: bool


@dataclass(frozen=True)
class GroupScore:
    """One configuration, which may have been run several times."""

    group: str
    covered: float
    """Share of the group's rows that have a prediction."""
    signed_error: float | None
    """Median over its rows of expected / measured − 1; negative means that too little was predicted."""
    upper_ratio: float | None
    """Median over its rows of upper / measured."""


def group_scores(outcomes: Iterable[Outcome]) -> tuple[GroupScore, ...]:
    """Join rows by group, in the order of their first rows."""
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.group, []).append(outcome)
    return tuple(_group_score(group, members) for group, members in rows.items())


def _group_score(group: str, members: Sequence[Outcome]) -> GroupScore:
    errors = [row.expected / row.measured - 1 for row in members if row.expected is not None]
    ratios = [row.upper / row.measured for row in members if row.upper is not None]
    return GroupScore(
        group=group,
        covered=len(errors) / len(members),
        signed_error=median(errors) if errors else None,
        upper_ratio=median(ratios) if ratios else None,
    )


Figures = dict[str, float | int | None]


def figures(outcomes: Iterable[Outcome]) -> Figures:
    """Return groups, coverage, errors and shares over the groups of `outcomes`, as fractions; None where no group has a prediction.

    Shares are of the groups that have a prediction; percentiles interpolate linearly between groups.
    """
    groups = group_scores(outcomes)
    signed = [group.signed_error for group in groups if group.signed_error is not None]
    ratios = [group.upper_ratio for group in groups if group.upper_ratio is not None]
    errors = sorted(abs(error) for error in signed)
    return {
        "groups": len(groups),
        "coverage": _rounded(sum(group.covered for group in groups) / len(groups)) if groups else None,
        "median_abs_error": _rounded(percentile(errors, 0.5)),
        "p90_abs_error": _rounded(percentile(errors, 0.9)),
        "under_by_5_percent": _rounded(_share(error < -UNDER_TOLERANCE for error in signed)),
        "above_upper": _rounded(_share(ratio < 1 for ratio in ratios)),
        "median_upper_ratio": _rounded(percentile(sorted(ratios), 0.5)),
    }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` of the ordered values lie, interpolated; None of nothing."""
    if not ordered:
        return None
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _share(values: Iterable[bool]) -> float | None:
    counted = list(values)
    return sum(counted) / len(counted) if counted else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
