"""Objective embedding: real runs on tiny encoders and decoders, what is compared with what, and what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.exact_resumes import assert_resumes_exactly

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.run_events import EvaluationEvent
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_pairs import ROWS, all_texts, pair_attempt
from finetune_trainer.testing_ranks import CaseResult, RankServer


@pytest.fixture(scope="module")
def models(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            write = "finetune_trainer.testing_encoders:write_tiny_encoder"
            ranks.call(write, folder=str(made[kind]), texts=all_texts(), kind=kind)
        return made[kind]

    return model


@pytest.fixture
def make(models: Any, tmp_path: Path) -> Any:
    def attempt(kind: str, layout: str, *, plan: Any, output: str = "out", **spec: Any) -> Any:
        rows = ROWS[layout](plan.rows)
        data = write_rows(tmp_path / f"{layout}.jsonl", rows)
        where = tmp_path / output
        return pair_attempt(models(kind), data, rows, where, layout=layout, plan=plan, objective="embedding", **spec)

    return attempt


PAIRS = {
    "scored-pair": [
        ["superb", "charming"],
        ["superb", "awful"],
    ],
    "triplet": [["who knows bade ?", "we told you of bade before"], ["who knows bade ?", "we told you of yeku before"]],
    "pair": [["who knows bade ?", "we told you of bade before"], ["who knows bade ?", "we told you of yeku before"]],
}


@pytest.mark.parametrize(
    ("kind", "layout", "measure", "spec"),
    [
        ("distilbert", "scored-pair", "spearman", {}),
        ("modernbert", "pair", "retrieval_accuracy", {"learning_rate": 1e-3}),
        ("llama", "triplet", "retrieval_accuracy", {"tuning": {"method": "lora"}, "learning_rate": 1e-2}),
    ],
)
def test_held_out_pairs_get_into_order_and_sentence_transformers_loads_what_is_published(
    kind: str, layout: str, measure: str, spec: dict[str, Any], ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(micro_batch_size=8, gradient_accumulation=2, total_steps=40, rows=192)
    split = {"dataset": {"split": {"evaluation": 0.2}}, "evaluation": {"every": 1}}
    result = ranks.run(make(kind, layout, plan=plan, **split, **spec), tmp_path / "run")
    assert result.statuses == (0,), result.log()
    evaluations = [event for event in result.events if isinstance(event, EvaluationEvent)]
    found = [event.measures[measure] for event in evaluations]
    # Of 8 seeds of rows and weights the last is 0.87 to 1 and the first at most 0.62, but 0.92 of modernbert; losses fall to a 17th at most.
    assert found[-1] > 0.7
    assert evaluations[-1].loss < evaluations[0].loss / 3

    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))

    assert answer["code"] == 0, answer
    out = tmp_path / "out"
    alike, unlike = ranks.call("finetune_trainer.testing_pairs:published_cosines", folder=str(out), pairs=PAIRS[layout])
    assert alike > unlike + 0.2
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    wanted = {"distilbert": "mean_tokens", "modernbert": "mean_tokens", "llama": "lasttoken"}[kind]
    assert [key for key, value in pooling.items() if value is True] == [f"pooling_mode_{wanted}"]
    assert "SentenceTransformer(" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def reference(ranks: RankServer, models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CaseResult]:
    found = {}
    for layout, make_rows in ROWS.items():
        folder = tmp_path_factory.mktemp(f"reference-{layout}")
        rows = make_rows(96)
        data = write_rows(folder / "rows.jsonl", rows)
        attempt = pair_attempt(
            models("distilbert"),
            data,
            rows,
            folder / "out",
            layout=layout,
            plan=tiny_plan(micro_batch_size=16, total_steps=3, rows=96),
            objective="embedding",
        )
        found[layout] = ranks.run(attempt, folder / "run")
    return found


def test_the_losses_are_those_of_sentence_transformers_own_trainer(
    ranks: RankServer, models: Any, reference: dict[str, CaseResult]
) -> None:
    plain = ranks.call(
        "finetune_trainer.testing_pairs:plain_losses",
        plan=str(reference["pair"].folder / "plan.json"),
        model=str(models("distilbert")),
    )
    assert reference["pair"].statuses == (0,), reference["pair"].log()
    assert list(reference["pair"].losses.values()) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("layout", ["scored-pair", "triplet"])
@pytest.mark.parametrize("strategy", [Strategy.SINGLE, Strategy.DDP])
def test_every_row_meets_all_others_of_its_global_batch_whatever_its_split(
    layout: str, strategy: Strategy, ranks: RankServer, make: Any, tmp_path: Path, reference: dict[str, CaseResult]
) -> None:
    processes = 1 if strategy is Strategy.SINGLE else 2
    plan = tiny_plan(
        strategy=strategy,
        processes=processes,
        micro_batch_size=2,
        gradient_accumulation=8 // processes,
        total_steps=3,
        rows=96,
    )
    result = ranks.run(make("distilbert", layout, plan=plan), tmp_path / "run")
    assert set(result.statuses) == {0}, result.log()
    assert result.losses == pytest.approx(reference[layout].losses, abs=1e-5)


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(ranks: RankServer, make: Any, tmp_path: Path) -> None:
    plan = tiny_plan(
        strategy=Strategy.DDP,
        processes=2,
        micro_batch_size=2,
        gradient_accumulation=4,
        total_steps=6,
        rows=96,
        gradient_checkpointing=Checkpointing.FULL,
    )

    def attempt(output: str) -> Any:
        return make("bert", "pair", plan=plan, training={"embedding": {"pooling": "cls"}}, output=output)

    assert_resumes_exactly(ranks, attempt, tmp_path, stopped_rank=1)
