"""What bfloat16 costs and what not: computing in it must not round what is told of a step."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer


def is_rounded_to_bfloat16(value: float) -> bool:
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return bits & 0xFFFF == 0


def test_losses_of_sharded_bfloat16_runs_keep_the_digits_of_float32(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"tuning": {"method": "full"}, "training": {"precision": "bf16"}}
    whole, sharded = (
        ranks.run(make_attempt(plan, output=plan.strategy, **spec), tmp_path / f"run-{plan.strategy}")
        for plan in (
            tiny_plan(micro_batch_size=4, total_steps=3),
            tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=2, total_steps=3),
        )
    )
    assert sharded.statuses == (0, 0), sharded.log()
    assert not any(is_rounded_to_bfloat16(loss) for loss in sharded.losses.values())
    assert sharded.losses == pytest.approx(whole.losses, abs=5e-3)
