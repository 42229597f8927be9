"""The report for people: figures as a table, and the groups with the largest errors with what they were predicted to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from accuracy.prediction import Prediction
from accuracy.report import ScoredRow, report
from accuracy.score import group_scores

COLUMNS = (
    ("groups", "groups"),
    ("coverage", "covered"),
    ("median_abs_error", "median"),
    ("p90_abs_error", "p90"),
    ("under_by_5_percent", "under by 5 %"),
    ("above_upper", "above upper"),
    ("median_upper_ratio", "upper / measured"),
)


def report_table(rows: Sequence[ScoredRow]) -> RenderableType:
    """Return headline, parts and peers as one table; errors are shares of what was measured."""
    found = report(rows)
    table = Table(title="Memory accuracy, by group", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for _, title in COLUMNS:
        table.add_column(title, justify="right")
    _line(table, "headline", found, style="bold")
    _line(table, "launchable", _part(found, "launchable"), style="bold")
    for title in ("by_source", "by_method", "peers"):
        table.add_section()
        table.add_row(Text(title.replace("_", " "), style="italic"))
        for name, part in _part(found, title).items():
            _line(table, f"  {name}", cast(Mapping[str, object], part))
    parts: list[RenderableType] = [table]
    reasons = cast(list[dict[str, str]], found["not_predicted"])
    parts += [Text(f"not predicted: {item['row']}: {item['reason']}") for item in reasons]
    return Group(*parts)


def _part(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    return cast(Mapping[str, object], found[name])


def _line(table: Table, name: str, part: Mapping[str, object], style: str | None = None) -> None:
    left_out = part.get("left_out")
    cells = [_cell(key, part.get(key)) for key, _ in COLUMNS]
    table.add_row(f"{name} *" if left_out else name, *cells, style=style)


def _cell(key: str, value: object) -> str:
    if not isinstance(value, int | float):
        return "–"
    if key == "groups":
        return str(value)
    return f"{value:.3f}" if key == "median_upper_ratio" else f"{100 * value:.1f} %"


def worst_table(rows: Sequence[ScoredRow], count: int) -> Table:
    """Return the `count` groups with the largest errors, each with the components of its first row at the predicted peak, in GiB."""
    table = Table(title=f"The {count} largest errors", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("error", "measured", "expected", "upper", "kind"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("predicted at the peak, GiB")
    table.add_column("group")
    first = {row.row.group: row for row in reversed(rows) if isinstance(row.prediction, Prediction)}
    scores = [score for score in group_scores(row.outcome for row in rows) if score.signed_error is not None]
    for score in sorted(scores, key=lambda score: -abs(score.signed_error or 0))[:count]:
        row = first[score.group]
        prediction = cast(Prediction, row.prediction)
        figure = prediction.figure(row.row.kind)
        parts = " ".join(f"{name} {size:.2f}" for name, size in prediction.components.items())
        table.add_row(
            f"{100 * (score.signed_error or 0):+.1f} %",
            f"{row.row.measured_gib:.2f}",
            f"{figure.expected:.2f}",
            f"{figure.upper:.2f}",
            row.row.kind.value,
            f"{prediction.peak_phase}: {parts}",
            score.group,
        )
    return table
