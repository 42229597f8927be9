"""RLHF: one job trains a reward model, and another one's answers are scored by it: exactly, on every rank, and again after a kill."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, Final

import pytest
from tests.trainer.chained_jobs import Finished, attempt_of, example, finish

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import ResumeEvent, StepEvent
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.testing import write_rows
from finetune_trainer.testing_online import SUMS
from finetune_trainer.testing_ranks import CaseResult, RankServer

NAME: Final = "reward-model"
PLAIN: Final = "finetune_trainer.testing_online:plain_scores"
Attempts = Callable[..., AttemptFile]


@pytest.fixture(scope="module")
def judge(ranks: RankServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """examples/reward-lora.yaml, which learns to like digits better than other characters."""
    folder, source = tmp_path_factory.mktemp("judge"), random.Random(0)

    def some(characters: str) -> str:
        return "".join(source.choices(characters, k=source.randint(1, 5)))

    others = string.ascii_letters + string.punctuation + " é€"
    pairs = [
        {"prompt": row["prompt"], "chosen": some(string.digits), "rejected": some(others)}
        for row in SUMS
        for _ in range(4)
    ]
    model = {"uri": f"file://{tiny_model}"}
    job, spec = example("reward-lora.yaml", write_rows(folder / "pairs.jsonl", pairs), model=model)
    spec["training"] = {**spec["training"], "learningRate": 5e-3}
    spec["resources"] = {"accelerator": "cpu", "strategy": "single"}
    return finish(ranks, folder, job, spec)


@pytest.fixture
def attempts(judge: Finished, tiny_model: Path, tmp_path: Path) -> Attempts:
    """examples/rlhf-rloo.yaml by that model, with short answers."""

    def make(
        *,
        strategy: str = "single",
        turns: bool = False,
        others: tuple[dict[str, Any], ...] = (),
        output: str = "out",
        number: int = 1,
        steps: int = 4,
        tuning: str = "lora",
        batch: int = 8,
        **training: Any,
    ) -> AttemptFile:
        rows: list[dict[str, Any]] = [{"prompt": row["prompt"]} for row in SUMS]
        if turns:
            rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
        data = write_rows(tmp_path / "prompts.jsonl", rows)
        job, spec = example("rlhf-rloo.yaml", data, model={"uri": f"file://{tiny_model}"}, tuning={"method": tuning})
        settings = spec["training"]["rloo"]
        (reward,) = settings["rewards"]
        assert reward["model"]["uri"].endswith(f"/{judge.attempt.name}")
        rewards = [{"model": {"uri": f"file://{judge.result}"}}, *others]
        spec["training"] = {
            "precision": "fp32",
            "maxSteps": steps,
            "globalBatchSize": batch,
            "maxLength": 64,
            "learningRate": 1e-3,
            "schedule": "constant",
            "warmup": 0,
            "stopOnDivergence": False,
            **training,
            "rloo": {**settings, "rewards": rewards, "generations": 4, "maxCompletionLength": 4},
        }
        spec["resources"] = {"accelerator": "cpu", "strategy": strategy, "processes": 1 if strategy == "single" else 2}
        spec["checkpoint"] = {"every": "2steps"}
        spec["output"] = {"uri": f"file://{tmp_path / output}"}
        return attempt_of(job, FineTuneJobSpec.model_validate(spec)).model_copy(update={"attempt": number})

    return make


def measured(case: CaseResult, name: str) -> list[float]:
    return [event.measures[name] for event in case.events if isinstance(event, StepEvent)]


def steps_of(case: CaseResult) -> list[dict[str, Any]]:
    return [event.model_dump(exclude={"seconds", "attempt"}) for event in case.events if isinstance(event, StepEvent)]


def test_the_mean_reward_of_the_model_rises_and_the_distance_is_told(
    judge: Finished, ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    attempt = attempts(tuning="full", steps=25, batch=64, learningRate=1e-2)
    result = ranks.run(attempt, tmp_path / "run")
    published = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(tmp_path / "run"))

    assert result.statuses == (0,), result.log()
    rewards = measured(result, f"reward_mean:{NAME}")
    assert mean(rewards[-5:]) > mean(rewards[:5]) + 1.0
    assert measured(result, "reward_mean") == pytest.approx(rewards, abs=1e-5)
    assert measured(result, "kl")[0] == pytest.approx(0.0, abs=1e-5)
    assert measured(result, "kl")[-1] > 0.01
    assert any(reason.startswith("rewards: a reward model") for reason in attempt.plan.reasons)
    assert published["code"] == 0, published["termination"]
    step = judge.attempt.plan.total_steps
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        f"| reward model made by | job team/judge (reward, lora) after step {step}, uid {judge.attempt.uid} |" in card
    )


@pytest.mark.parametrize(("strategy", "turns"), [("ddp", False), ("fsdp", True), ("zero3", False)])
def test_each_rank_scores_its_answers_as_plain_transformers_does(
    strategy: str, turns: bool, judge: Finished, ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    result = ranks.run(
        attempts(strategy=strategy, turns=turns, others=({"function": PLAIN, "weight": 0.0},), steps=2),
        tmp_path / "run",
        environment={"FINETUNE_TEST_REWARD_MODEL": str(judge.result)},
    )

    assert result.statuses == (0, 0), result.log()
    ours, plain = (measured(result, f"reward_mean:{name}") for name in (NAME, "plain_scores"))
    assert len(set(ours)) == 2
    assert ours == pytest.approx(plain, abs=1e-5)


def test_a_killed_run_goes_on_with_the_same_scores_bit_for_bit(
    ranks: RankServer, attempts: Attempts, tmp_path: Path
) -> None:
    whole = ranks.run(attempts(output="other"), tmp_path / "whole")
    killed = ranks.run(
        attempts(),
        tmp_path / "killed",
        probes=("KILL:0:3",),
        environment={"FINETUNE_TEST_OUTPUT": str(tmp_path / "out")},
    )
    resumed = ranks.run(attempts(number=2), tmp_path / "resumed")

    assert whole.statuses == (0,), whole.log()
    assert killed.statuses == (-9,), killed.log()
    assert resumed.statuses == (0,), resumed.log()
    (step,) = (event.step for event in resumed.events if isinstance(event, ResumeEvent))
    assert steps_of(resumed) == steps_of(whole)[step:]


def test_a_model_that_writes_is_no_reward_model(attempts: Attempts, judge: Finished, tiny_model: Path) -> None:
    spec = attempts().spec.to_json_dict()
    (reward,) = spec["training"]["rloo"]["rewards"]
    reward["model"]["uri"] = f"file://{tiny_model}"

    with pytest.raises(TrainerFailure, match=r"rewards\.model\.uri: .* is no sequence classifier"):
        attempt_of("other", FineTuneJobSpec.model_validate(spec))
