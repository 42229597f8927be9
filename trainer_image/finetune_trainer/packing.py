"""Packed rows on disk: encoded rows are joined to sequences as the plan has counted them. No torch: it is done while that is imported."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy
import pyarrow as pa

from finetune_operator.api.packing import pack
from finetune_trainer.encoding import IGNORED

TOKENS_PER_BATCH: Final = 4 * 1024**2
"""Of an Arrow batch: 32 MiB of tokens and labels."""
SCHEMA: Final = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("seq_lengths", pa.list_(pa.int32())),
    ]
)
"""`seq_lengths` are those of the rows in a sequence; TRL's collator makes positions of them."""


def rows_of_sequences(lengths: Sequence[int], capacity: int, seed: int) -> Iterator[list[int]]:
    """Yield the rows of each sequence by their numbers.

    Lengths alone decide how sequences are made up; `seed` decides which of the rows of a length go where, so that neighbours in the data set do not
    all meet in one sequence.
    """
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)  # noqa: S311 - to be repeated, not to be secret
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for row in order:
        waiting[lengths[row]].append(row)
    for made in pack(Counter(lengths), capacity):
        for _ in range(made.copies):
            yield [waiting[length].popleft() for length in made.lengths]


def write_packed(rows: Path, target: Path, *, capacity: int, seed: int) -> int:
    """Join the encoded rows of an Arrow file (columns input_ids and labels) and return the number of sequences.

    The first token of a row is not predicted: the token before it belongs to another row.
    """
    with pa.memory_map(str(rows)) as source, pa.ipc.open_stream(source) as reader:
        table = _Rows(reader.read_all())
        made = 0
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            batch: list[Mapping[str, numpy.ndarray]] = []
            tokens = 0
            for numbers in rows_of_sequences(table.lengths, capacity, seed):
                batch.append(table.joined(numbers))
                tokens += len(batch[-1]["input_ids"])
                made += 1
                if tokens >= TOKENS_PER_BATCH:
                    writer.write_batch(_to_arrow(batch))
                    batch, tokens = [], 0
            if batch:
                writer.write_batch(_to_arrow(batch))
    return made


class _Rows:
    """Encoded rows, mapped into memory."""

    def __init__(self, table: pa.Table) -> None:
        chunks = {name: table.column(name).chunks for name in ("input_ids", "labels")}
        self._values = {name: [chunk.values.to_numpy() for chunk in parts] for name, parts in chunks.items()}
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks["input_ids"]]
        self._starts = numpy.cumsum([0, *(len(offsets) - 1 for offsets in self._offsets)])
        self.lengths: list[int] = [int(n) for offsets in self._offsets for n in numpy.diff(offsets)]

    def joined(self, numbers: Sequence[int]) -> dict[str, numpy.ndarray]:
        """Return the sequence that these rows make."""
        labels = [self._of("labels", number).copy() for number in numbers]
        for row in labels:
            row[0] = IGNORED
        return {
            "input_ids": numpy.concatenate([self._of("input_ids", number) for number in numbers]),
            "labels": numpy.concatenate(labels),
            "seq_lengths": numpy.array([self.lengths[number] for number in numbers], dtype=numpy.int32),
        }

    def _of(self, column: str, number: int) -> numpy.ndarray:
        part = int(numpy.searchsorted(self._starts, number, side="right")) - 1
        first, last = self._offsets[part][number - self._starts[part] :][:2]
        values: numpy.ndarray = self._values[column][part]
        return values[first:last]


def _to_arrow(batch: Sequence[Mapping[str, numpy.ndarray]]) -> pa.RecordBatch:
    columns = []
    for field in SCHEMA:
        parts = [sequence[field.name] for sequence in batch]
        offsets = numpy.cumsum([0, *map(len, parts)], dtype=numpy.int32)
        columns.append(pa.ListArray.from_arrays(offsets, pa.array(numpy.concatenate(parts), pa.int32())))
    return pa.record_batch(columns, schema=SCHEMA)
