"""A run goes on with another number of processes: the same global batches in the same order, and random numbers that can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import Plan
from finetune_trainer.rank_random import derived_seed
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

FULL: dict[str, Any] = {"tuning": {"method": "full"}, "checkpoint": {"every": "2steps"}}
DROPOUT: dict[str, Any] = {
    "tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}},
    "checkpoint": {"every": "2steps"},
}


def plan_over(processes: int, strategy: Strategy, steps: int = 6) -> Plan:
    """A plan with a global batch of 8 sequences, however many processes share it."""
    return tiny_plan(strategy=strategy, processes=processes, micro_batch_size=8 // processes, total_steps=steps)


def test_ranks_steps_and_seeds_have_numbers_of_their_own() -> None:
    seeds = {derived_seed(seed, step, rank) for seed in range(5) for step in range(5) for rank in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derived_seed(42, 100, 3) == derived_seed(42, 100, 3)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_a_sharded_run_goes_on_with_another_number_of_processes(
    before: int, after: int, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    undisturbed = ranks.run(
        make_attempt(plan_over(before, Strategy.FSDP), output="undisturbed", **FULL), tmp_path / "undisturbed"
    )
    killed = ranks.run(
        make_attempt(plan_over(before, Strategy.FSDP), **FULL),
        tmp_path / "killed",
        probes=("KILL:0:5",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(make_attempt(plan_over(after, Strategy.FSDP), attempt=2, **FULL), tmp_path / "resumed")

    assert -9 in killed.statuses
    assert resumed.statuses == (0,) * after, resumed.log()
    assert min(resumed.losses) > 2
    # Sums over other numbers of ranks are rounded otherwise.
    after_resume = {step: undisturbed.losses[step] for step in resumed.losses}
    assert resumed.losses == pytest.approx(after_resume, abs=1e-4)


def test_ranks_that_are_new_have_random_numbers_that_can_be_repeated(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    one = make_attempt(plan_over(1, Strategy.SINGLE, steps=2), **DROPOUT)
    assert ranks.run(one, tmp_path / "one").statuses == (0,)
    two = make_attempt(
        plan_over(2, Strategy.DDP, steps=4), attempt=2, **{**DROPOUT, "checkpoint": {"every": "100steps"}}
    )
    first = ranks.run(two, tmp_path / "first")
    for path in sorted((tmp_path / "out").rglob("step-00000004/*")):
        path.rename(path.with_name(f"{path.name}.aside"))
    second = ranks.run(two, tmp_path / "second")

    assert first.statuses == second.statuses == (0, 0), second.log()
    assert first.losses == second.losses
    assert sorted(first.losses) == [3, 4]
    assert "random numbers of rank 1 are derived" in first.log(1)
