"""Where weights are read, and that every rank starts with them: FSDP2's ranks get their shards from the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer

MIB = 2**20
PLAN = tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=2, total_steps=1)


def run_on_new_model(
    ranks: RankServer, data: Path, folder: Path, *, shape: dict[str, Any], **spec: dict[str, Any]
) -> CaseResult:
    model = folder / "model"
    ranks.call("finetune_trainer.testing:write_tiny_model", folder=str(model), rows=arithmetic_rows(64), **shape)
    attempt = tiny_attempt(model, data, folder / "out", plan=PLAN, metrics_port=0, **spec)
    result = ranks.run(attempt, folder / "run", probes=("loaded",))
    assert result.statuses == (0, 0), result.log(1)
    return result


def assert_started_with_the_files_weights(result: CaseResult, folder: Path, ranks: RankServer, dtype: str) -> None:
    written = ranks.call("finetune_trainer.testing_probes:digests_of_files", folder=str(folder), dtype=dtype)
    for rank in range(2):
        found = result.probe("loaded", rank)["digests"]
        assert {name: found[name] for name in written} == written


def test_with_fsdp_the_second_rank_does_not_hold_the_model_while_it_is_loaded(
    ranks: RankServer, tiny_data: Path, tmp_path: Path
) -> None:
    """32 million parameters; while every rank read the file the difference was nothing but noise."""
    result = run_on_new_model(
        ranks, tiny_data, tmp_path, shape={"hidden": 768, "layers": 6}, training={"precision": "bf16"}
    )

    whole_in_bfloat16 = (tmp_path / "model" / "model.safetensors").stat().st_size // 2
    assert whole_in_bfloat16 > 60 * MIB
    assert result.probe("loaded", 0)["loaded"] - result.probe("loaded", 1)["loaded"] > whole_in_bfloat16
    assert_started_with_the_files_weights(result, tmp_path / "model", ranks, "bfloat16")


@pytest.mark.parametrize("ties", [False, True])
def test_every_rank_trains_the_files_weights_bit_for_bit(
    ties: bool, ranks: RankServer, tiny_data: Path, tmp_path: Path
) -> None:
    full = {"tuning": {"method": "full"}, "training": {"precision": "fp32"}}

    result = run_on_new_model(ranks, tiny_data, tmp_path, shape={"ties": ties}, **full)

    assert_started_with_the_files_weights(result, tmp_path / "model", ranks, "float32")
