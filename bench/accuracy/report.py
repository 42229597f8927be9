"""The report: predictions of every scored row, the headline, the same by source and method, over launchable methods, and of the peers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from accuracy.models import architecture_of_row
from accuracy.peers import PEERS
from accuracy.prediction import Prediction, Unpredictable, is_launchable, predict
from accuracy.rows import Row
from accuracy.score import Figures, Outcome, figures
from accuracy.stacks import stack_of
from accuracy.unmet import why_unmet


@dataclass(frozen=True)
class ScoredRow:
    """One row with what was predicted of it, and what the peers say (GiB; None where a rule cannot be applied)."""

    row: Row
    prediction: Prediction | Unpredictable
    peers: dict[str, float | None]

    @property
    def outcome(self) -> Outcome:
        """The row as the score sees it."""
        if isinstance(self.prediction, Unpredictable):
            return self._outcome(None, None)
        figure = self.prediction.figure(self.row.kind)
        return self._outcome(figure.expected, figure.upper)

    def peer_outcome(self, peer: str) -> Outcome:
        """The row as a peer predicts it: one figure, which is its upper bound too."""
        value = self.peers[peer]
        return self._outcome(value, value)

    def _outcome(self, expected: float | None, upper: float | None) -> Outcome:
        return Outcome(
            group=self.row.group,
            source=self.row.source,
            method=self.row.method or "not stated",
            measured=self.row.measured_gib or 0.0,
            expected=expected,
            upper=upper,
            launchable=self.prediction.launchable,
        )


def scored(rows: Iterable[Row]) -> tuple[ScoredRow, ...]:
    """Predict every row; a fault in one row is that row's reason, never the report's end."""
    return tuple(_scored(row) for row in rows)


def _scored(row: Row) -> ScoredRow:
    try:
        prediction = predict(row)
    except (ValueError, ArithmeticError, LookupError) as error:
        # A value that no reader foresaw: the row counts as not covered and is listed with this reason.
        prediction = Unpredictable(f"{type(error).__name__}: {error}", is_launchable(row))
    return ScoredRow(row, prediction, _peers(row))


def _peers(row: Row) -> dict[str, float | None]:
    nothing: dict[str, float | None] = dict.fromkeys(PEERS)
    try:
        architecture = architecture_of_row(row)
        if isinstance(architecture, str):
            return nothing
        workload = stack_of(row).workload(row, architecture)
        if isinstance(workload, str):
            return nothing
        return {name: rule(row, architecture, workload) for name, rule in PEERS.items()}
    except (ValueError, ArithmeticError, LookupError):
        return nothing


def report(rows: Sequence[ScoredRow]) -> dict[str, object]:
    """Return what the program prints: the headline's figures, and the same of parts of the rows."""
    headline = [row for row in rows if row.row.left_out is None]
    outcomes = [row.outcome for row in headline]
    return {
        **figures(outcomes),
        "launchable": figures(outcome for outcome in outcomes if outcome.launchable),
        "by_source": _by_source(rows),
        "by_method": _by(outcomes, lambda outcome: outcome.method),
        "peers": {peer: figures(row.peer_outcome(peer) for row in headline) for peer in PEERS},
        "not_predicted": [
            {"row": row.row.name, "reason": row.prediction.reason}
            for row in rows
            if isinstance(row.prediction, Unpredictable)
        ],
    }


def _by(outcomes: Iterable[Outcome], key: Callable[[Outcome], str]) -> dict[str, Figures]:
    parts: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        parts.setdefault(key(outcome), []).append(outcome)
    return {name: figures(part) for name, part in sorted(parts.items())}


def _by_source(rows: Sequence[ScoredRow]) -> dict[str, object]:
    """Figures over all rows of a source, with why some of its groups do not count for the headline, and why it misses a goal."""
    found: dict[str, object] = {}
    for source, part in _by((row.outcome for row in rows), lambda outcome: outcome.source).items():
        reasons = {row.row.group: row.row.left_out for row in rows if row.row.source == source}
        counts = Counter(reason for reason in reasons.values() if reason)
        left_out = {"left_out": dict(counts)} if counts else {}
        why = why_unmet(source, part)
        found[source] = {**part, **left_out, **({"why_unmet": why} if why else {})}
    return found
