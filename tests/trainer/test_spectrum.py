"""Spectrum: what the ratios see, which weights are trained, and that every attempt trains the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.own_workload import workload_of
from finetune_operator.memory.states import trainable_parameters
from finetune_trainer.spectrum import best_of_each_kind
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

SPECTRUM: dict[str, Any] = {"method": "spectrum", "spectrum": {"topFraction": 0.5}}


def test_the_ratios_are_those_of_the_singular_values(ranks: RankServer) -> None:
    for found, expected in ranks.call("finetune_trainer.testing_methods:ratios_of_random_matrices"):
        assert found == pytest.approx(expected, rel=1e-9)
        assert expected > 0


def test_the_share_is_taken_of_each_kind_and_at_least_one() -> None:
    ratios = {
        "layers.0.q_proj.weight": ("q", 1.0),
        "layers.1.q_proj.weight": ("q", 3.0),
        "layers.2.q_proj.weight": ("q", 2.0),
        "layers.3.q_proj.weight": ("q", 2.0),
        "layers.0.down_proj.weight": ("down", 9.0),
    }
    assert best_of_each_kind(ratios, 0.5) == (
        "layers.0.down_proj.weight",
        "layers.1.q_proj.weight",
        "layers.2.q_proj.weight",
    )


def test_only_the_best_weights_change_as_many_as_were_planned_and_the_same_in_every_attempt(
    ranks: RankServer, make_attempt: Any, tmp_path: Path, tiny_model: Path
) -> None:
    plan = tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=2, total_steps=4)
    stopped = ranks.run(make_attempt(plan, tuning=SPECTRUM), tmp_path / "stopped", probes=("TERM:0:2",))
    second = make_attempt(plan, attempt=2, tuning=SPECTRUM)
    resumed = ranks.run(second, tmp_path / "resumed")
    assert resumed.statuses == (0, 0), resumed.log()
    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(resumed.folder))
    assert answer["code"] == 0, answer

    (kept,) = Path(second.checkpoint_uri.removeprefix("file://")).glob("spectrum-*.json")
    chosen = best_of_each_kind(
        {name: (kind, ratio) for name, (kind, ratio) in json.loads(kept.read_text()).items()}, 0.5
    )
    assert "ratios computed" in stopped.log()
    assert "ratios computed" not in resumed.log()
    before, after = (
        ranks.call("finetune_trainer.testing_probes:digests_of_files", folder=str(folder), dtype="float32")
        for folder in (tiny_model, tmp_path / "out")
    )
    assert {name for name in before if before[name] != after[name]} == set(chosen)

    config = json.loads((tiny_model / "config.json").read_text())
    architecture = architecture_of(config)
    assert isinstance(architecture, Architecture)
    planned = trainable_parameters(
        architecture,
        workload_of(
            second.spec,
            sequence_length=128,
            micro_batch=2,
            accumulation=1,
            strategy=Strategy.FSDP,
            processes=2,
            checkpointing=Checkpointing.NONE,
        ),
    )
    sizes = ranks.call("finetune_trainer.testing_methods:sizes_of_files", folder=str(tiny_model))
    assert sum(sizes[name] for name in chosen) == planned
