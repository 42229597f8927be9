"""States in host memory: on CPU ranks the same memory, but DeepSpeed's and FSDP2's own ways through it, with the losses of a run without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.plan import Plan
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

FULL: dict[str, Any] = {"tuning": {"method": "full"}, "checkpoint": {"every": "2steps"}}


def plan_with(strategy: Strategy, offload: Offload, **settings: Any) -> Plan:
    """Two micro-batches per step, where gradients wait in host memory for the second one."""
    several = {"strategy": strategy, "processes": 2, "offload": offload}
    return tiny_plan(**several, micro_batch_size=1, gradient_accumulation=2, **settings)


@pytest.mark.parametrize(
    ("strategy", "offload"),
    [
        (Strategy.FSDP, Offload.PARAMETERS),
        (Strategy.ZERO1, Offload.OPTIMIZER),
        (Strategy.ZERO2, Offload.OPTIMIZER),
        (Strategy.ZERO3, Offload.PARAMETERS),
    ],
)
def test_offload_changes_no_loss(
    strategy: Strategy, offload: Offload, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    expected = ranks.run(make_attempt(tiny_plan(total_steps=4), output="single", **FULL), tmp_path / "single").losses
    attempt = make_attempt(plan_with(strategy, offload, total_steps=4), **FULL)
    result = ranks.run(attempt, tmp_path / "run", probes=("shapes",))

    assert result.statuses == (0, 0), result.log()
    assert result.losses == pytest.approx(expected, abs=1e-4)
    assert "in host memory" in result.log()
    if strategy is Strategy.FSDP:
        assert result.probe("shapes", 0)["offload"] == ["CPUOffloadPolicy"]


def test_an_offloaded_run_that_was_killed_goes_on_with_the_same_losses_bit_for_bit(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    plan = plan_with(Strategy.ZERO3, Offload.PARAMETERS, total_steps=5)
    undisturbed = ranks.run(make_attempt(plan, output="undisturbed", **FULL), tmp_path / "run")
    killed = ranks.run(
        make_attempt(plan, **FULL),
        tmp_path / "killed",
        probes=("KILL:1:4",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(make_attempt(plan, attempt=2, **FULL), tmp_path / "resumed")

    assert -9 in killed.statuses
    assert resumed.statuses == (0, 0), resumed.log()
    assert min(resumed.losses) > 2
    assert resumed.losses == {step: undisturbed.losses[step] for step in resumed.losses}
