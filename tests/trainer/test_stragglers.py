"""A rank that its peers wait for is told, by the time that each spends by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Strategy
from finetune_trainer.report import trainer_status
from finetune_trainer.stragglers import STEPS_COMPARED, PeerWatch, Straggler, compare, find_straggler
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer


def found_in(*own: float, step: float = 2.0, known: int | None = None) -> int | None:
    slow = find_straggler(compare([[seconds] * STEPS_COMPARED for seconds in own], step), known)
    return None if slow is None else slow.rank


@pytest.mark.parametrize(
    ("own", "rank"),
    [
        ((1.0, 1.0, 1.6, 1.0), 2),
        ((1.0, 1.4), None),
        ((1.0, 1.6), 1),
        ((1.0, 3.0, 2.5, 1.0), 1),  # of two slow ones the slower
        ((0.01, 0.05), None),  # five times as long, and two percent of a step
        ((1.0,), None),
    ],
)
def test_a_rank_is_slow_when_it_takes_half_as_long_again_and_a_tenth_of_the_step_is_lost(
    own: tuple[float, ...], rank: int | None
) -> None:
    assert found_in(*own) == rank


def test_a_known_slow_rank_stays_one_until_it_is_clearly_faster() -> None:
    assert found_in(1.0, 1.3, known=1) == 1
    assert found_in(1.0, 1.3, known=0) is None
    assert found_in(1.0, 1.2, known=1) is None


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=16), st.floats(0.1, 100))
def test_at_most_one_rank_is_named_and_it_is_the_slowest(own: list[float], step: float) -> None:
    rank = found_in(*own, step=step)

    assert rank is None or own[rank] == max(own)


@given(st.lists(st.floats(0.5, 1.5), min_size=STEPS_COMPARED, max_size=STEPS_COMPARED))
def test_batches_of_other_lengths_make_no_rank_slow(times: list[float]) -> None:
    shuffled = list(reversed(times))

    assert find_straggler(compare([times, shuffled, times], 2.0)) is None


def test_all_ranks_hear_every_ranks_time_through_one_maximum() -> None:
    now = 0.0
    told: list[tuple[Straggler, Straggler | None]] = []
    watches = [PeerWatch(rank, 3, lambda own, slow: told.append((own, slow)), lambda: now) for rank in range(3)]
    for _ in range(STEPS_COMPARED):
        now += 2.0
        numbers = [watch.tell(1.9 if rank == 1 else 0.5) for rank, watch in enumerate(watches)]
        highest = [max(column) for column in zip(*numbers, strict=True)]
        for watch in watches:
            watch.hear(highest)

    assert [slow.rank for _, slow in told if slow] == [1, 1, 1]
    assert [own.rank for own, _ in told] == [0, 1, 2]
    assert told[1][0].ratio == pytest.approx(3.8)
    assert told[1][0].share == pytest.approx(0.7)


def test_a_report_names_the_slow_rank_in_numbers() -> None:
    from datetime import UTC, datetime

    status = trainer_status(
        now=datetime(2026, 1, 1, tzinfo=UTC),
        attempt=1,
        step=3,
        total_steps=9,
        loss=None,
        tokens_per_second=None,
        remaining_seconds=None,
        peak_memory_bytes=None,
        checkpoint_step=None,
        checkpoints_rejected=0,
        straggler=Straggler(5, 1.5, 1.0, 2.0),
    )

    assert [status.metric(f"slow_rank{part}") for part in ("", "_ratio", "_share")] == ["5", "1.5", "0.25"]


@pytest.mark.parametrize("strategy", [Strategy.DDP, Strategy.FSDP])
def test_a_rank_that_computes_slowly_is_named_with_its_node_and_goes_on(
    strategy: Strategy, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(tiny_plan(strategy=strategy, processes=2, micro_batch_size=1, total_steps=21))

    result = ranks.run(
        attempt, tmp_path / "run", probes=("slow:1:0.08",), environment={"FINETUNE_NODE": "node-of-the-test"}
    )

    assert result.statuses == (0, 0), result.log()
    assert "rank 1 on node node-of-the-test is slower than its peers: it takes " in result.log()
