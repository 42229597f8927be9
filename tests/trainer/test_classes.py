"""Objectives classification and token-classification: what is learned of which token, real runs on tiny encoders, and what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.trainer.exact_resumes import assert_resumes_exactly

from finetune_operator.api.compatibility import Checkpointing, Method, Objective, Strategy
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.run_events import EvaluationEvent, StepEvent
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_encoders import encoder_attempt, text_rows, word_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

TEXTS = text_rows(96)
WORDS = word_rows(96)
SENTENCES = [row["text"] for row in TEXTS] + [" ".join(row["tokens"]) for row in WORDS]


def example(name: str) -> dict[str, Any]:
    """How an example manifest trains; the learning rate is the test's."""
    spec = yaml.safe_load((Path(__file__).parents[2] / "examples" / f"{name}.yaml").read_text())["spec"]
    assert spec["objective"] == name
    return {"tuning": spec["tuning"], "training": spec["training"]}


@pytest.fixture(scope="module")
def encoders(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            ranks.call(
                "finetune_trainer.testing_encoders:write_tiny_encoder",
                folder=str(made[kind]),
                texts=SENTENCES,
                kind=kind,
            )
        return made[kind]

    return model


@pytest.fixture
def make(encoders: Any, tmp_path: Path) -> Any:
    def attempt(kind: str, objective: str, *, output: str = "out", plan: Any = None, **spec: Any) -> Any:
        rows = TEXTS if objective == "classification" else WORDS
        data = write_rows(tmp_path / f"{objective}.jsonl", rows)
        if plan is None:
            plan = tiny_plan(micro_batch_size=8, total_steps=100, rows=len(rows))
        return encoder_attempt(encoders(kind), data, rows, tmp_path / output, objective=objective, plan=plan, **spec)

    return attempt


FROZEN = {
    "tuning": {"method": "freeze", "freeze": {"trainable": "last:2", "modules": ["Wqkv", "Wo"]}},
    "learning_rate": 1e-2,
}
"""The new dense layers before the classifier are trained beside the named ones."""


def accuracies(result: CaseResult) -> list[float]:
    return [event.measures["batch_accuracy"] for event in result.events if isinstance(event, StepEvent)]


@pytest.mark.parametrize(
    ("kind", "objective", "spec"),
    [
        ("modernbert", "classification", example("classification")),
        ("distilbert", "classification", {"tuning": {"method": "lora"}, "learning_rate": 5e-3}),
        ("llama", "classification", {"tuning": {"method": "lora"}, "learning_rate": 1e-2}),
        ("modernbert", "classification", FROZEN),
        ("roberta", "token-classification", {**example("token-classification"), "learning_rate": 1e-2}),
        ("bert", "token-classification", {"dataset": {"split": {"evaluation": 0.2}}}),
    ],
)
def test_a_separable_set_is_learned_and_the_published_model_tells_its_classes_by_name(
    kind: str, objective: str, spec: dict[str, Any], ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    result = ranks.run(make(kind, objective, **spec), tmp_path / "run")
    assert result.statuses == (0,), result.log()
    found = accuracies(result)
    # Of 8 seeds of heads, adapters and order each case ends at 0.98 at least; after 40 steps 0.58 was among them.
    assert sum(found[-5:]) / 5 > 0.9
    assert sum(found[:3]) / 3 < 0.75

    evaluations = [event.loss for event in result.events if isinstance(event, EvaluationEvent)]
    assert bool(evaluations) == ("dataset" in spec)
    assert all(loss < 0.5 for loss in evaluations[-1:])
    held_out = [event.measures for event in result.events if isinstance(event, EvaluationEvent)][-1:]
    assert all(measures["entity_f1"] > 0.9 and measures["accuracy"] > 0.9 for measures in held_out)

    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))

    assert answer["code"] == 0, answer
    out = tmp_path / "out"
    texts = (
        ["the film was superb", "our dinner was awful"]
        if objective == "classification"
        else ["Ben travels from Oslo to Lima ."]
    )
    said = ranks.call(
        "finetune_trainer.testing_encoders:published_labels", folder=str(out), objective=objective, texts=texts
    )
    if objective == "classification":
        assert said == ["praise", "blame"]
        assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "blame", "1": "doubt", "2": "praise"}
    else:
        named = [(word.strip("\u0120").lower()[:1], entity) for word, entity in said[0]]
        assert [pair for pair in named if pair in (("b", "B-PER"), ("o", "B-LOC"), ("l", "B-LOC"))] == [
            ("b", "B-PER"),
            ("o", "B-LOC"),
            ("l", "B-LOC"),
        ]
    assert "pipeline(" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def reference(ranks: RankServer, encoders: Any, tmp_path_factory: pytest.TempPathFactory) -> CaseResult:
    folder = tmp_path_factory.mktemp("reference")
    data = write_rows(folder / "rows.jsonl", TEXTS)
    plan = tiny_plan(micro_batch_size=4, total_steps=4, rows=len(TEXTS))
    attempt = encoder_attempt(
        encoders("distilbert"), data, TEXTS, folder / "out", objective="classification", plan=plan
    )
    return ranks.run(attempt, folder / "run")


def test_the_losses_are_those_of_transformers_own_trainer(
    ranks: RankServer, encoders: Any, reference: CaseResult
) -> None:
    plain = ranks.call(
        "finetune_trainer.testing_encoders:plain_losses",
        plan=str(reference.folder / "plan.json"),
        model=str(encoders("distilbert")),
    )
    assert reference.statuses == (0,), reference.log()
    assert list(reference.losses.values()) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    "strategy", [strategy for method, strategy in PROVEN[Objective.CLASSIFICATION] if method is Method.FULL]
)
def test_accumulation_and_every_strategy_have_the_losses_of_one_whole_batch(
    strategy: Strategy, ranks: RankServer, make: Any, tmp_path: Path, reference: CaseResult
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy,
        processes=processes,
        micro_batch_size=1,
        gradient_accumulation=4 // processes,
        total_steps=4,
        rows=len(TEXTS),
    )
    result = ranks.run(make("distilbert", "classification", plan=plan), tmp_path / "run")
    assert set(result.statuses) == {0}, result.log()
    assert result.losses == pytest.approx(reference.losses, abs=1e-4)


@pytest.mark.parametrize("objective", ["classification", "token-classification"])
def test_a_run_that_was_stopped_goes_on_with_the_same_losses(
    objective: str, ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(
        strategy=Strategy.DDP,
        processes=2,
        micro_batch_size=2,
        total_steps=6,
        rows=96,
        gradient_checkpointing=Checkpointing.FULL,
    )

    def attempt(output: str) -> Any:
        return make("bert", objective, plan=plan, output=output)

    assert_resumes_exactly(ranks, attempt, tmp_path, stopped_rank=1)
