"""What a row measured: tokens per second of all its GPUs, and how long the sequences really were."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from accuracy.rows import Row

USES: Final = ("memory", "memory-weak", "throughput")
"""Rows with another `use` ran out of memory, or measured nothing."""
LENGTH_TOLERANCE: Final = 0.02


@dataclass(frozen=True)
class Speed:
    """Tokens per second over all GPUs, and the mean length of the sequences that were computed."""

    tokens_per_second: float
    length: int


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read every row of `path` that ran and that states tokens/s, samples/s or the seconds of a step.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file lacks a column of the format.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"use", "group", "tokens_per_s", "gpu", "micro_batch"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; give a CSV with the columns of the measured runs"
            )
        rows = [Row({key: value or "" for key, value in line.items() if key is not None}) for line in reader]
    speeds = ("tokens_per_s", "samples_per_s", "step_time_s")
    return tuple(
        row
        for row in rows
        if row.text("use") in USES and row.text("suspect") != "1" and any(row.number(name) for name in speeds)
    )


def measured(row: Row) -> Speed | str:
    """Return what the row measured, or why its tokens cannot be counted.

    The length is the column's where every sequence has it (packed, padded or cut to it). Where tokens per second stand beside samples per
    second, or beside the seconds of a step, their ratio is the real mean length. A longest length alone says nothing of the others.
    """
    gpus = row.whole("n_gpus") or 1
    stated, length = row.number("tokens_per_s"), row.whole("seq_len")
    samples, step = row.number("samples_per_s"), row.number("step_time_s")
    per_step = sequences_per_step(row)
    if stated:
        total = stated * gpus if row.text("tps_scope").startswith("per_gpu") else stated
        ratio = total / samples if samples else total * step / per_step if step and per_step else None
        if length is None and ratio is None:
            return "neither seq_len nor samples/s: the length of its sequences is not known"
        if ratio is not None and (length is None or ratio < length * (1 - LENGTH_TOLERANCE)):
            return Speed(total, max(round(ratio), 1))
        return Speed(total, length or 1)
    if length is None or not _is_filled(row, length):
        return "its sequences are shorter than seq_len by an unknown amount"
    if samples:
        return Speed(samples * length, length)
    if step and per_step:
        return Speed(per_step * length / step, length)
    return "no figure of speed with known lengths"


def with_length(row: Row, length: int) -> Row:
    """Return the row as if every sequence had the mean length."""
    return replace(row, columns={**row.columns, "seq_len": str(length)})


def sequences_per_step(row: Row) -> int | None:
    """Return the sequences of one optimizer step over all GPUs, or None where the micro-batch is not stated."""
    batch = row.whole("micro_batch")
    return None if batch is None else batch * (row.whole("grad_accum") or 1) * data_parallel(row)


def data_parallel(row: Row) -> int:
    """Return how many GPUs work on different sequences; a naive pipeline over GPUs counts as one."""
    if re.search(r"device_map|pipeline", row.text("sharding").lower()):
        return 1
    split = (row.whole("tp") or 1) * (row.whole("pp") or 1) * (row.whole("cp") or 1)
    return max((row.whole("n_gpus") or 1) // split, 1)


def _is_filled(row: Row, length: int) -> bool:
    """Whether every sequence has `length` tokens, by what the row says of its data."""
    words = row.text("seq_kind").lower()
    reached = re.search(r"cap is reached for <=(\d+)", words)
    if reached:
        return length <= int(reached[1])
    return words.startswith(("fixed", "packed"))
