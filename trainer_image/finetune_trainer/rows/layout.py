"""Which layout a data set has and what its columns are called: named by the spec, or found in the first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inputs import Dataset
from finetune_operator.api.layouts import LAYOUT_COLUMNS, Layout, listed

DETECTION_ROWS: Final = 20
"""How many of the first readable rows decide the layout where dataset.format is auto."""
COLUMNS_NAMED: Final = 10


@dataclass(frozen=True)
class RowLayout:
    """The layout of a data set; `columns` are the data set's names by the layout's own."""

    layout: Layout
    columns: Mapping[str, str]

    @classmethod
    def of(cls, layout: Layout, named: Mapping[str, str] | None = None) -> RowLayout:
        """Return the layout with the names that `dataset.columns` gives."""
        return cls(layout, {name: (named or {}).get(name, name) for name in LAYOUT_COLUMNS[layout].all})

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The data set's columns without which no row can be read."""
        return tuple(self.columns[name] for name in LAYOUT_COLUMNS[self.layout].needed)


class LayoutUnknown(Exception):
    """The layout of a data set could not be detected; the message says what to set."""

    exit_code = ExitCode.BAD_DATA


def choose_layout(dataset: Dataset, accepted: Sequence[Layout], first: Sequence[Mapping[str, object]]) -> RowLayout:
    """Return the layout that the spec names, or the one of the accepted that most of the first rows have.

    Raises:
        LayoutUnknown: No row has all columns of an accepted layout, or `dataset.columns` names columns that none of them has together.
    """
    named = dataset.columns.named
    if dataset.format != "auto":
        return RowLayout.of(Layout(dataset.format), named)
    candidates = [RowLayout.of(layout, named) for layout in accepted if set(named) <= set(LAYOUT_COLUMNS[layout].all)]
    if not candidates:
        raise LayoutUnknown(
            f"dataset.columns names {listed(named, 'and')}, which no layout of this objective has together; it learns from format "
            f"{_described(accepted)}"
        )
    if named and len(candidates) == 1:
        return candidates[0]
    votes = {
        candidate.layout: sum(all(column in row for column in candidate.needed) for row in first)
        for candidate in candidates
    }
    best = max(candidates, key=lambda candidate: votes[candidate.layout])
    if votes[best.layout] > 0:
        return best
    if named:  # the spec says what the rows should have: each of them is told what it lacks
        return candidates[0]
    seen = sorted({name[:40] for row in first for name in row})[:COLUMNS_NAMED]
    raise LayoutUnknown(
        f"the layout of the data set is unknown: its first {len(first)} rows have the columns {', '.join(seen) or '(none)'}, "
        f"and this objective learns from format {_described(accepted)}; rename the columns, or set dataset.columns "
        "(for example {prompt: question, completion: answer})"
    )


def _described(layouts: Sequence[Layout]) -> str:
    return listed(f"{layout} ({', '.join(LAYOUT_COLUMNS[layout].needed)})" for layout in layouts)
