"""Objectives orpo, kto and reward: they learn what is preferred, with the strategies that the docs tick, and go on bit for bit after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.api.compatibility import Method, Objective, Strategy
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.run_events import ResumeEvent, StepEvent
from finetune_trainer.testing import judged_rows, preference_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

METHODS: Final[dict[Method, Any]] = {
    Method.FULL: {"method": "full"},
    Method.LORA: {"method": "lora", "lora": {"rank": 8}},
}
ROWS, STEPS, BATCH, RATE = 16, 6, 4, 1e-3
Attempts = Callable[..., AttemptFile]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[Objective, Path]:
    folder = tmp_path_factory.mktemp("rows")
    pairs = write_rows(folder / "pairs.jsonl", preference_rows(ROWS))
    judged = write_rows(folder / "judged.jsonl", judged_rows(ROWS))
    return {Objective.ORPO: pairs, Objective.REWARD: pairs, Objective.KTO: judged}


@pytest.fixture
def attempts(tiny_model: Path, data: dict[Objective, Path], tmp_path: Path) -> Attempts:
    def make(
        objective: Objective,
        method: Method = Method.LORA,
        strategy: Strategy = Strategy.SINGLE,
        *,
        number: int = 1,
        output: str = "out",
        steps: int = STEPS,
        training: dict[str, Any] | None = None,
    ) -> AttemptFile:
        processes = 1 if strategy is Strategy.SINGLE else 2
        return tiny_attempt(
            tiny_model,
            data[objective],
            tmp_path / output,
            plan=tiny_plan(
                strategy=strategy,
                processes=processes,
                micro_batch_size=BATCH // processes,
                total_steps=steps,
                rows=ROWS,
            ),
            attempt=number,
            metrics_port=0,
            objective=objective,
            training={"learningRate": RATE, "precision": "fp32", **(training or {})},
            tuning=METHODS[method],
            checkpoint={"every": "2steps"},
        )

    return make


def measured(case: CaseResult, name: str) -> list[float]:
    return [event.measures[name] for event in case.events if isinstance(event, StepEvent)]


def test_orpo_has_the_losses_of_trl_s_own_trainer(
    ranks: RankServer, attempts: Attempts, tiny_model: Path, data: dict[Objective, Path], tmp_path: Path
) -> None:
    ours = ranks.run(attempts(Objective.ORPO, training={"lossOn": "all"}), tmp_path / "run")
    plain = ranks.call(
        "finetune_trainer.testing_plain:plain_orpo",
        model=str(tiny_model),
        data=str(data[Objective.ORPO]),
        target=str(tmp_path / "plain"),
        steps=STEPS,
        batch=BATCH,
        rate=RATE,
        rank=8,
    )

    assert ours.statuses == (0,), ours.log()
    assert list(ours.losses.values()) == pytest.approx(plain, abs=1e-5)
    assert measured(ours, "log_odds_ratio")[-1] > measured(ours, "log_odds_ratio")[0]


CASES: Final = [
    (objective, method, strategy)
    for objective in (Objective.ORPO, Objective.KTO, Objective.REWARD)
    for method, strategy in PROVEN[objective]
]


@pytest.mark.parametrize(("objective", "method", "strategy"), CASES)
def test_the_margin_rises_and_answers_are_told_apart(
    objective: Objective, method: Method, strategy: Strategy, ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    result = ranks.run(attempts(objective, method, strategy), tmp_path / "run", probes=("shapes",))

    assert set(result.statuses) == {0}, result.log()
    margins = measured(result, "reward_margin")
    assert margins[-1] > margins[0]
    assert result.losses[STEPS] < result.losses[1]
    if strategy in (Strategy.FSDP, Strategy.ZERO3):
        shapes = result.probe("shapes", 0)
        assert shapes["local_parameters"] <= 0.52 * shapes["whole_parameters"]


def test_kto_tells_how_far_the_model_is_from_the_reference(
    ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    result = ranks.run(
        attempts(Objective.KTO, training={"kto": {"beta": 0.5, "undesirableWeight": 2.0}}), tmp_path / "r"
    )

    assert result.statuses == (0,), result.log()
    assert measured(result, "kl")[0] == pytest.approx(0.0, abs=1e-4)
    assert all(value >= 0 for value in measured(result, "kl"))
    assert measured(result, "reward_chosen")[-1] > 0 > measured(result, "reward_rejected")[-1]


@pytest.mark.parametrize(
    ("objective", "method"),
    [(Objective.ORPO, Method.LORA), (Objective.KTO, Method.FULL), (Objective.REWARD, Method.LORA)],
)
def test_a_killed_run_goes_on_bit_for_bit(
    objective: Objective, method: Method, ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    whole = ranks.run(attempts(objective, method, output="other"), tmp_path / "whole")
    killed = ranks.run(
        attempts(objective, method),
        tmp_path / "killed",
        probes=("KILL:0:4",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(attempts(objective, method, number=2), tmp_path / "resumed")

    assert killed.statuses == (-9,), killed.log()
    assert resumed.statuses == (0,), resumed.log()
    (step,) = (event.step for event in resumed.events if isinstance(event, ResumeEvent))
    assert resumed.losses == {number: whole.losses[number] for number in range(step + 1, STEPS + 1)}
