"""One measured run as a typed row of the CSV; values that are empty, unknown or malformed become None."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SCORED_USE = "memory"
"""Rows with another `use` have no memory figure, or a weak one."""
HEADLINE_QUALITIES = ("A", "B")
HEADLINE_PHASE = "finetune"


class MetricKind(StrEnum):
    """What a measured figure counts."""

    ALLOCATED = "allocated"
    """torch.cuda.max_memory_allocated; torchtune's peak_active differs from it only by blocks that wait for another stream."""
    RESERVED = "reserved"
    """torch.cuda.max_memory_reserved: with the allocator's cache and holes."""
    DEVICE = "device"
    """nvidia-smi: with CUDA context, libraries and other allocators."""


@dataclass(frozen=True)
class Row:
    """One run. Sizes are elements, `measured_gib` is GiB of one GPU; `columns` holds the text of every column."""

    columns: Mapping[str, str]

    def text(self, name: str) -> str:
        """Return a column's text without surrounding blanks; empty where the column is missing."""
        return (self.columns.get(name) or "").strip()

    def number(self, name: str) -> float | None:
        """Return a column as a finite number, or None."""
        try:
            value = float(self.text(name))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def whole(self, name: str) -> int | None:
        """Return a column as a whole number of at least 1, or None."""
        value = self.number(name)
        return int(value) if value is not None and value >= 1 and value == int(value) else None

    @property
    def name(self) -> str:
        """The run's own name, for listings."""
        return self.text("id") or self.group

    @property
    def group(self) -> str:
        """What joins reruns and renames of one configuration; a row without one is its own group."""
        return self.text("group") or self.text("id") or repr(sorted(self.columns.items()))

    @property
    def source(self) -> str:
        """Where the figure was published."""
        return self.text("source") or "unknown"

    @property
    def method(self) -> str:
        """Which parameters are trained, in the source's words."""
        return self.text("method").lower()

    @property
    def measured_gib(self) -> float | None:
        """The figure to predict, or None when there is none."""
        value = self.number("measured_gib")
        return value if value is not None and value > 0 else None

    @property
    def stated_kind(self) -> MetricKind | None:
        """What the source says that it measured; None when it does not say."""
        return metric_kind(self.text("metric_kind"))

    @property
    def kind(self) -> MetricKind:
        """What the prediction is compared as: an unstated figure counts as reserved, which loggers print most often."""
        return self.stated_kind or MetricKind.RESERVED

    @property
    def left_out(self) -> str | None:
        """Return why this row is listed under its source only, or None when it counts for the headline."""
        if self.text("phase") != HEADLINE_PHASE:
            return f"phase {self.text('phase') or 'not stated'}"
        if self.text("quality") not in HEADLINE_QUALITIES:
            return f"quality {self.text('quality') or 'not stated'}"
        if self.stated_kind is None:
            return f"metric kind {self.text('metric_kind') or 'not stated'}"
        return None


def metric_kind(text: str) -> MetricKind | None:
    """Return what a column `metric_kind` says; None when it names no kind, or says itself that none was stated."""
    words = text.lower()
    if "not stated" in words or "unknown" in words:
        return None
    if "nvidia" in words and "reserved" not in words:
        return MetricKind.DEVICE
    if "reserved" in words:
        return MetricKind.RESERVED
    if "alloc" in words or "active" in words:
        return MetricKind.ALLOCATED
    return None


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read every row of `path` that has `use` memory and a measured figure.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has no column `use` or `measured_gib`, so it is no such CSV.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"use", "measured_gib", "group"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; give a CSV with the columns of the measured runs"
            )
        rows = tuple(Row({key: value or "" for key, value in line.items() if key is not None}) for line in reader)
    return tuple(row for row in rows if row.text("use") == SCORED_USE and row.measured_gib is not None)
