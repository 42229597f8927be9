"""Packed rows: what is in them, and that a model learns from them as from the rows alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.packing import packed_rows
from finetune_operator.api.run_events import StepEvent
from finetune_trainer.encoding import IGNORED
from finetune_trainer.packing import rows_of_sequences, write_packed
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 90), st.integers(0, 5))
def test_every_row_is_in_one_sequence_whatever_the_seed(lengths: list[int], capacity: int, seed: int) -> None:
    sequences = list(rows_of_sequences(lengths, capacity, seed))
    assert sorted(row for sequence in sequences for row in sequence) == list(range(len(lengths)))
    assert len(sequences) == packed_rows(Counter(lengths), capacity).sequences
    assert sequences == list(rows_of_sequences(lengths, capacity, seed))


def test_a_sequence_holds_whole_rows_whose_first_token_is_not_predicted(tmp_path: Path) -> None:
    rows = [[10 * row + token for token in range(length)] for row, length in enumerate((4, 3, 7, 2, 5))]
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    with pa.OSFile(str(tmp_path / "rows"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for part in (rows[:2], rows[2:]):
            writer.write_batch(pa.record_batch([pa.array(part, pa.list_(pa.int32()))] * 2, schema=schema))

    count = write_packed(tmp_path / "rows", tmp_path / "packed", capacity=8, seed=1)

    with pa.ipc.open_stream((tmp_path / "packed").read_bytes()) as reader:
        sequences = reader.read_all().to_pylist()
    assert count == len(sequences) == 3
    found = []
    for sequence in sequences:
        start = 0
        for length in sequence["seq_lengths"]:
            row = sequence["input_ids"][start : start + length]
            assert sequence["labels"][start : start + length] == [IGNORED, *row[1:]]
            found.append(row)
            start += length
        assert start == len(sequence["input_ids"]) <= 8
    assert sorted(found) == rows


def test_trl_makes_as_many_sequences_of_a_thousand_rows(ranks: RankServer) -> None:
    lengths = [3 + row * row % 97 for row in range(1000)]
    made = ranks.call("finetune_trainer.testing_packing:sequences_of_trl", lengths=lengths, capacity=128)
    assert made == packed_rows(Counter(lengths), 128).sequences


@pytest.mark.parametrize("strategy", [Strategy.SINGLE, Strategy.FSDP])
def test_packed_rows_have_the_loss_of_rows_alone(
    strategy: Strategy, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    """One step over all 64 rows: packed in one way, alone in another, the same tokens are predicted from the same ones."""
    settings: dict[str, Any] = {"tuning": {"method": "full"}, "training": {"lossOn": "all"}}
    processes = 2 if strategy is Strategy.FSDP else 1
    alone = make_attempt(tiny_plan(micro_batch_size=64, total_steps=1), output="alone", **settings)
    first = ranks.run(alone, tmp_path / "alone")
    spread = tiny_plan(
        strategy=strategy, processes=processes, micro_batch_size=64 // processes, total_steps=1, packed=True
    )
    second = ranks.run(make_attempt(spread, output="packed", **settings), tmp_path / "packed")

    assert first.statuses == (0,), first.log()
    assert second.statuses == (0,) * processes, second.log()
    (one,), (other,) = ([event for event in case.events if isinstance(event, StepEvent)] for case in (first, second))
    assert other.loss == pytest.approx(one.loss, abs=1e-5)
    assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
