"""Objective dpo: the losses and the adapter of a plain TRL script, one reference however it is asked, and the same steps with every strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file

from finetune_operator.api.compatibility import Method, Objective, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.run_events import ResumeEvent, StepEvent
from finetune_trainer.testing import preference_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

FULL: Final = {"method": "full"}
LORA: Final = {"method": "lora", "lora": {"rank": 8}}
METHODS: Final = {Method.FULL: FULL, Method.LORA: LORA}
ROWS, STEPS, BATCH, RATE = 16, 6, 4, 1e-3
Attempts = Callable[..., AttemptFile]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "rows.jsonl", preference_rows(ROWS))


@pytest.fixture
def dpo(tiny_model: Path, pairs: Path, tmp_path: Path) -> Attempts:
    def make(
        strategy: Strategy = Strategy.SINGLE,
        *,
        tuning: dict[str, Any] = LORA,
        number: int = 1,
        every: str = "1000steps",
        output: str = "out",
        **plan: Any,
    ) -> AttemptFile:
        processes = 1 if strategy is Strategy.SINGLE else 2
        settings = {"strategy": strategy, "processes": processes, "micro_batch_size": BATCH // processes}
        return tiny_attempt(
            tiny_model,
            pairs,
            tmp_path / output,
            plan=tiny_plan(**settings, total_steps=STEPS, rows=ROWS, **plan),
            attempt=number,
            metrics_port=0,
            objective="dpo",
            training={"learningRate": RATE, "precision": "fp32"},
            tuning=tuning,
            checkpoint={"every": every},
        )

    return make


def measured(case: CaseResult, name: str) -> list[float]:
    return [event.measures[name] for event in case.events if isinstance(event, StepEvent)]


def last_checkpoint(folder: Path) -> Path:
    return sorted(path.parent for path in folder.glob("checkpoints/*/step-*/*/manifest.json"))[-1]


def test_losses_margins_and_adapter_are_those_of_a_plain_trl_script(
    ranks: RankServer, dpo: Attempts, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    ours = ranks.run(dpo(), tmp_path / "run")
    plain = ranks.call(
        "finetune_trainer.testing_plain:plain_dpo",
        model=str(tiny_model),
        data=str(pairs),
        target=str(tmp_path / "plain"),
        steps=STEPS,
        batch=BATCH,
        rate=RATE,
        rank=8,
    )

    assert ours.statuses == (0,), ours.log()
    assert list(ours.losses.values()) == pytest.approx(plain["loss"], abs=1e-6)
    assert measured(ours, "reward_margin") == pytest.approx(plain["rewards/margins"], abs=1e-6)
    assert measured(ours, "reward_margin")[-1] > 0.05 > measured(ours, "reward_margin")[0]
    mine = load_file(last_checkpoint(tmp_path / "out") / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)


@pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])
def test_a_reference_that_is_asked_beforehand_says_the_same_as_one_that_is_asked_in_every_step(
    tuning: dict[str, Any], ranks: RankServer, dpo: Attempts, tmp_path: Path
) -> None:
    in_steps = ranks.run(dpo(tuning=tuning, output="other"), tmp_path / "in-steps")
    beforehand = ranks.run(dpo(tuning=tuning, precomputed_reference=True), tmp_path / "beforehand")

    assert in_steps.statuses == beforehand.statuses == (0,), beforehand.log()
    assert f"the reference was asked about {ROWS} rows" in beforehand.log()
    assert beforehand.losses == pytest.approx(in_steps.losses, abs=1e-5)
    assert measured(in_steps, "reward_margin")[-1] > measured(in_steps, "reward_margin")[0] + 0.05


SEVERAL: Final = [
    (METHODS[method], strategy) for method, strategy in PROVEN[Objective.DPO] if strategy is not Strategy.SINGLE
]


@pytest.mark.parametrize(("tuning", "strategy"), SEVERAL)
def test_two_ranks_have_the_losses_of_one(
    strategy: Strategy,
    tuning: dict[str, Any],
    ranks: RankServer,
    dpo: Attempts,
    tmp_path: Path,
    whole_batches: dict[str, dict[int, float]],
) -> None:
    result = ranks.run(dpo(strategy, tuning=tuning, precomputed_reference=tuning is FULL), tmp_path / "run")

    assert result.statuses == (0, 0), result.log()
    assert result.losses == pytest.approx(whole_batches[str(tuning["method"])], abs=1e-4)


@pytest.fixture(scope="module")
def whole_batches(
    ranks: RankServer, tiny_model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[int, float]]:
    """The losses of one process, by method."""

    def losses(tuning: dict[str, Any]) -> dict[int, float]:
        folder = tmp_path_factory.mktemp("whole")
        attempt = tiny_attempt(
            tiny_model,
            pairs,
            folder / "out",
            plan=tiny_plan(micro_batch_size=BATCH, total_steps=STEPS, rows=ROWS),
            metrics_port=0,
            objective="dpo",
            training={"learningRate": RATE, "precision": "fp32"},
            tuning=tuning,
        )
        return ranks.run(attempt, folder / "run").losses

    return {"full": losses(FULL), "lora": losses(LORA)}


def test_a_killed_run_goes_on_bit_for_bit_with_what_the_reference_said_before(
    ranks: RankServer, dpo: Attempts, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"tuning": FULL, "precomputed_reference": True, "every": "2steps"}
    undisturbed = ranks.run(dpo(Strategy.DDP, output="other", **settings), tmp_path / "undisturbed")
    killed = ranks.run(
        dpo(Strategy.DDP, **settings),
        tmp_path / "killed",
        probes=("KILL:1:4",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(dpo(Strategy.DDP, **settings, number=2), tmp_path / "resumed")

    assert killed.statuses == (ExitCode.PEER_LOST, -9), killed.log()
    assert resumed.statuses == (0, 0), resumed.log()
    (step,) = (event.step for event in resumed.events if isinstance(event, ResumeEvent))
    assert resumed.losses == {number: undisturbed.losses[number] for number in range(step + 1, STEPS + 1)}
    assert "the reference was asked" in undisturbed.log()
    assert "the reference was asked" not in resumed.log()
