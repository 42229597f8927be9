"""Models whose weights are saved under other names than they have in memory: experts are one tensor here and one each on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.run_events import ResumeEvent
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer


@pytest.mark.parametrize(
    ("strategy", "then", "tolerance"),
    [
        (Strategy.SINGLE, Strategy.SINGLE, 0.0),
        (Strategy.DDP, Strategy.DDP, 0.0),
        # Sums over other numbers of ranks are rounded otherwise.
        (Strategy.DDP, Strategy.FSDP, 1e-5),
    ],
)
def test_experts_go_on_from_what_they_had_learned(
    strategy: Strategy, then: Strategy, tolerance: float, ranks: RankServer, tiny_data: Path, tmp_path: Path
) -> None:
    rows = arithmetic_rows(64)
    ranks.call("finetune_trainer.testing:write_tiny_model", folder=str(tmp_path / "model"), rows=rows, experts=4)
    processes = 1 if strategy is Strategy.SINGLE else 2

    def run(name: str, output: Path, *probes: str, number: int = 1, by: Strategy = strategy) -> CaseResult:
        plan = tiny_plan(strategy=by, processes=processes, micro_batch_size=2 // processes, total_steps=6)
        attempt = tiny_attempt(
            tmp_path / "model",
            tiny_data,
            output,
            plan=plan,
            attempt=number,
            metrics_port=0,
            training={"learningRate": 1e-2, "precision": "fp32"},
            tuning={"method": "full"},
            checkpoint={"every": "2steps"},
        )
        return ranks.run(attempt, tmp_path / name, probes=probes)

    undisturbed = run("undisturbed", tmp_path / "whole")
    run("killed", tmp_path / "out", f"KILL-UPLOAD:{processes - 1}:2")
    resumed = run("resumed", tmp_path / "out", number=2, by=then)

    assert [event.step for event in resumed.events if isinstance(event, ResumeEvent)] == [2], resumed.log()
    expected = {step: undisturbed.losses[step] for step in range(3, 7)}
    assert resumed.losses == pytest.approx(expected, rel=0, abs=tolerance)
