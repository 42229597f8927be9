"""What is measured of evaluation rows beside their loss: the libraries' own figures, and the same ones however rows are spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.measures import names_entities
from finetune_operator.api.run_events import EvaluationEvent
from finetune_trainer.objectives.held_out_classes import class_measures
from finetune_trainer.testing import preference_rows, tiny_attempt, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

TAGS: Final = ("B-MISC", "B-PER", "I-MISC", "I-PER", "O")
ROWS: Final = 16


def numbered(rows: list[str]) -> list[list[int]]:
    return [[TAGS.index(tag) for tag in row.split()] for row in rows]


def test_entities_are_counted_as_seqeval_and_classes_as_scikit_learn_count_them() -> None:
    # The example of seqeval's README: accuracy 0.80, f1 0.50; one of two entities is right.
    right = numbered(["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"])
    given = numbered(["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"])
    assert class_measures(right, given, TAGS) == pytest.approx(
        {
            "accuracy": 0.8,
            "macro_f1": (0.0 + 1.0 + 2 * 2 / (3 + 2) + 1.0 + 2 * 4 / (5 + 4)) / 5,
            "entity_precision": 0.5,
            "entity_recall": 0.5,
            "entity_f1": 0.5,
        }
    )


@pytest.mark.parametrize(("names", "are"), [(TAGS, True), (("NOUN", "O", "VERB"), False), (("I-PER", "O"), False)])
def test_words_are_joined_to_entities_only_where_all_classes_are_tags(names: tuple[str, ...], are: bool) -> None:
    assert names_entities(names) is are
    assert ("entity_f1" in class_measures([[0, 1]], [[1, 1]], names)) is are


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    """Data set and evaluation rows, seven of them: no batch size divides them among two ranks."""
    kept = write_rows(tmp_path / "evaluation.jsonl", preference_rows(7, seed=7))
    return {
        "uri": f"file://{write_rows(tmp_path / 'rows.jsonl', preference_rows(ROWS))}",
        "evaluation": {"uri": f"file://{kept}"},
    }


def run(ranks: RankServer, model: Path, pairs: dict[str, Any], folder: Path, objective: str, **plan: Any) -> CaseResult:
    attempt = tiny_attempt(
        model,
        folder.parent / "rows.jsonl",
        folder / "out",
        plan=tiny_plan(total_steps=2, rows=ROWS, **plan),
        metrics_port=0,
        objective=objective,
        dataset=pairs,
        evaluation={"every": 1},
        tuning={"method": "full"},
        training={"learningRate": 1e-3, "precision": "fp32"},
    )
    result = ranks.run(attempt, folder)
    assert set(result.statuses) == {0}, result.log()
    return result


def evaluations(result: CaseResult) -> list[dict[str, float]]:
    found = [event for event in result.events if isinstance(event, EvaluationEvent)]
    return [{"loss": event.loss, **event.measures} for event in found]


def test_rewards_of_held_out_pairs_do_not_depend_on_batches_processes_and_how_the_reference_is_asked(
    ranks: RankServer, tiny_model: Path, pairs: dict[str, Any], tmp_path: Path
) -> None:
    one = run(ranks, tiny_model, pairs, tmp_path / "one", "dpo", micro_batch_size=4)
    two = run(
        ranks,
        tiny_model,
        pairs,
        tmp_path / "two",
        "dpo",
        strategy=Strategy.DDP,
        processes=2,
        micro_batch_size=2,
        precomputed_reference=True,
    )
    assert "the reference was asked about 23 rows" in two.log()
    for mine, theirs in zip(evaluations(one), evaluations(two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-3)
    first, second = evaluations(one)
    assert second["reward_margin"] > first["reward_margin"] == pytest.approx(0, abs=1e-6)  # the first step warms up
    assert second["reward_margin"] == pytest.approx(second["reward_chosen"] - second["reward_rejected"], abs=1e-5)
    assert (second["reward_accuracy"] * 7) % 1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", ["orpo", "reward"])
def test_held_out_pairs_of_other_objectives_are_measured_too(
    objective: str, ranks: RankServer, tiny_model: Path, pairs: dict[str, Any], tmp_path: Path
) -> None:
    result = run(ranks, tiny_model, pairs, tmp_path / "run", objective, micro_batch_size=4)
    for found in evaluations(result):
        assert (found["reward_accuracy"] * 7) % 1 == pytest.approx(0, abs=1e-5)
        assert (found["reward_margin"] > 0) or found["reward_accuracy"] < 1
    assert "reward_accuracy" in result.log()
