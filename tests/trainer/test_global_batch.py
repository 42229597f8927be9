"""A step is that of its global batch, however it is split: every token counts once, and with 4 ranks each holds a quarter of the states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import SHARDED_STRATEGIES, Strategy
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

FULL: dict[str, Any] = {"method": "full"}


@pytest.fixture(scope="module")
def uneven_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose answers have 20 or 100 tokens: a mean of the ranks' means is far from the mean of all tokens."""
    rows = arithmetic_rows(16)
    for row in rows[::3]:
        row["messages"][1]["content"] = " ".join([row["messages"][1]["content"]] * 5)
    return write_rows(tmp_path_factory.mktemp("uneven") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def whole_batch(
    ranks: RankServer, tiny_model: Path, uneven_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> CaseResult:
    folder = tmp_path_factory.mktemp("whole-batch")
    return run(ranks, tiny_model, uneven_data, folder, FULL, strategy=Strategy.SINGLE, micro_batch_size=4)


def run(ranks: RankServer, model: Path, data: Path, folder: Path, tuning: dict[str, Any], **plan: Any) -> CaseResult:
    attempt = tiny_attempt(
        model,
        data,
        folder / "out",
        plan=tiny_plan(**plan, total_steps=3, rows=16, max_length=256),
        metrics_port=0,
        tuning=tuning,
        training={"learningRate": 1e-2, "precision": "fp32" if tuning is FULL else "bf16", "maxLength": 256},
    )
    result = ranks.run(attempt, folder / "run", probes=("shapes",))
    assert set(result.statuses) == {0}, result.log()
    return result


@pytest.mark.parametrize(
    ("strategy", "processes"),
    [
        (Strategy.DDP, 2),
        (Strategy.FSDP, 4),
        (Strategy.ZERO1, 2),
        (Strategy.ZERO2, 4),
        (Strategy.ZERO3, 4),
    ],
)
def test_every_token_of_the_global_batch_counts_once(
    strategy: Strategy,
    processes: int,
    ranks: RankServer,
    tiny_model: Path,
    uneven_data: Path,
    tmp_path: Path,
    whole_batch: CaseResult,
) -> None:
    split = {
        "strategy": strategy,
        "processes": processes,
        "micro_batch_size": 1,
        "gradient_accumulation": 4 // processes,
    }
    result = run(ranks, tiny_model, uneven_data, tmp_path, FULL, **split)

    assert result.losses == pytest.approx(whole_batch.losses, abs=1e-4)
    held = [result.probe("shapes", rank) for rank in range(processes)]
    if strategy in SHARDED_STRATEGIES:
        assert sum(shapes["local_moments"] for shapes in held) == held[0]["whole_parameters"]
        assert max(shapes["local_moments"] for shapes in held) <= 1.02 / processes * held[0]["whole_parameters"]
    if strategy in (Strategy.FSDP, Strategy.ZERO3):
        assert max(shapes["local_parameters"] for shapes in held) <= 1.02 / processes * held[0]["whole_parameters"]


@pytest.mark.parametrize("strategy", [Strategy.FSDP, Strategy.ZERO3])
def test_four_bit_weights_are_sharded(
    strategy: Strategy, ranks: RankServer, tiny_model: Path, uneven_data: Path, tmp_path: Path
) -> None:
    qlora = {"method": "qlora"}
    result = run(ranks, tiny_model, uneven_data, tmp_path, qlora, strategy=strategy, processes=2, micro_batch_size=2)

    one, other = result.probe("shapes", 0), result.probe("shapes", 1)
    assert one["local_parameters"] + other["local_parameters"] == one["whole_parameters"]
    assert one["local_parameters"] <= 0.51 * one["whole_parameters"]
