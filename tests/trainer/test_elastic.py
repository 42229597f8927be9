"""A run goes on with other processes or another strategy: the same global batches in the same order, and random numbers that can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import Plan
from finetune_trainer.rank_random import derived_seed
from finetune_trainer.testing import arithmetic_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

DROPOUT: dict[str, Any] = {
    "tuning": {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}},
    "checkpoint": {"every": "2steps"},
}


def plan_over(processes: int, strategy: Strategy, steps: int = 7) -> Plan:
    """A plan with a global batch of 8 sequences, however many processes share it."""
    return tiny_plan(strategy=strategy, processes=processes, micro_batch_size=8 // processes, total_steps=steps)


def test_ranks_steps_and_seeds_have_numbers_of_their_own() -> None:
    seeds = {derived_seed(seed, step, rank) for seed in range(5) for step in range(5) for rank in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derived_seed(42, 100, 3) == derived_seed(42, 100, 3)


Run = Callable[..., CaseResult]


@pytest.fixture(scope="module")
def run_in(ranks: RankServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a plan in a folder, on 36 rows: 5 steps of 8 are an epoch, and the last one is not full."""
    data = write_rows(tmp_path_factory.mktemp("few") / "rows.jsonl", arithmetic_rows(36))

    def run(folder: Path, name: str, method: str, plan: Plan, *probes: str, attempt: int = 1) -> CaseResult:
        file = tiny_attempt(
            tiny_model,
            data,
            folder / "out",
            plan=plan,
            attempt=attempt,
            metrics_port=0,
            training={"learningRate": 1e-2, "precision": "fp32"},
            tuning={"method": method},
            checkpoint={"every": "2steps"},
        )
        environment = {"FINETUNE_TEST_OUTPUT": str(folder / "out")}
        return ranks.run(file, folder / name, probes=probes, environment=environment)

    return run


@pytest.fixture(scope="module")
def losses_of_one_process(run_in: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[int, float]]:
    """What an undisturbed run has; all strategies and numbers of processes have these losses (test_ranks.py)."""

    @cache
    def losses(method: str) -> dict[int, float]:
        return run_in(tmp_path_factory.mktemp(method), "run", method, plan_over(1, Strategy.SINGLE)).losses

    return losses


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("full", (Strategy.FSDP, 2), (Strategy.FSDP, 4)),
        ("full", (Strategy.FSDP, 4), (Strategy.SINGLE, 1)),
        ("full", (Strategy.SINGLE, 1), (Strategy.FSDP, 2)),
        ("lora", (Strategy.FSDP, 2), (Strategy.DDP, 2)),
        ("lora", (Strategy.DDP, 2), (Strategy.FSDP, 4)),
        ("lora", (Strategy.ZERO2, 2), (Strategy.ZERO2, 4)),
        ("full", (Strategy.ZERO1, 4), (Strategy.ZERO2, 2)),
    ],
)
def test_a_run_goes_on_with_other_processes(
    method: str,
    before: tuple[Strategy, int],
    after: tuple[Strategy, int],
    run_in: Run,
    tmp_path: Path,
    losses_of_one_process: Callable[[str], dict[int, float]],
) -> None:
    (first, few), (second, many) = before, after
    killed = run_in(tmp_path, "killed", method, plan_over(few, first), "KILL:0:5")
    resumed = run_in(tmp_path, "resumed", method, plan_over(many, second), attempt=2)

    assert -9 in killed.statuses
    assert resumed.statuses == (0,) * many, resumed.log()
    assert 2 < min(resumed.losses) <= 5
    undisturbed = losses_of_one_process(method)
    # Sums over other numbers of ranks are rounded otherwise.
    assert resumed.losses == pytest.approx({step: undisturbed[step] for step in resumed.losses}, abs=1e-5)


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
