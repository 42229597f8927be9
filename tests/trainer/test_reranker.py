"""Objective reranker: real runs on tiny encoders and decoders, and what CrossEncoder makes of the published model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.exact_resumes import assert_resumes_exactly

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.run_events import EvaluationEvent
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_pairs import all_texts, judged_pair_rows, pair_attempt
from finetune_trainer.testing_ranks import CaseResult, RankServer

ROWS = judged_pair_rows(96)
TEXTS = [*all_texts(), *(str(text) for row in judged_pair_rows(200) for text in row.values())]


@pytest.fixture(scope="module")
def models(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            write = "finetune_trainer.testing_encoders:write_tiny_encoder"
            ranks.call(write, folder=str(made[kind]), texts=TEXTS, kind=kind)
            path = made[kind] / "config.json"  # as of a cross-encoder whose scores are logits
            logits = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
            path.write_text(json.dumps(json.loads(path.read_text()) | logits))
        return made[kind]

    return model


@pytest.fixture
def make(models: Any, tmp_path: Path) -> Any:
    def attempt(kind: str, plan: Any, *, output: str = "out", **spec: Any) -> Any:
        data = write_rows(tmp_path / "rows.jsonl", ROWS)
        where = tmp_path / output
        return pair_attempt(
            models(kind), data, ROWS, where, layout="scored-pair", plan=plan, objective="reranker", **spec
        )

    return attempt


@pytest.mark.parametrize(
    ("kind", "spec"), [("modernbert", {}), ("llama", {"tuning": {"method": "lora"}, "learning_rate": 1e-2})]
)
def test_held_out_pairs_get_into_order_and_sentence_transformers_loads_what_is_published(
    kind: str, spec: dict[str, Any], ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(micro_batch_size=16, total_steps=80, rows=len(ROWS))
    split = {"dataset": {"split": {"evaluation": 0.2}}, "evaluation": {"every": 1}}
    result = ranks.run(make(kind, plan, **split, **spec), tmp_path / "run")
    assert result.statuses == (0,), result.log()
    evaluations = [event for event in result.events if isinstance(event, EvaluationEvent)]
    # Of 6 seeds of heads, adapters and order, 60 and 120 steps, Spearman ends at 0.81 to 0.88 (no ranks are better: scores are
    # of three kinds), and losses fall to 0.63 of the first at most (0.22 is left of the doubts). A doubt is on either side by chance.
    assert evaluations[-1].measures["spearman"] > 0.6
    assert 0.5 < evaluations[-1].measures["pair_accuracy"] <= 1
    assert evaluations[-1].loss < 0.8 * evaluations[0].loss

    answer = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))

    assert answer["code"] == 0, answer
    pairs = [["is it any good ?", "bade was superb"], ["is it any good ?", "bade was awful"]]
    good, bad = ranks.call("finetune_trainer.testing_pairs:published_scores", folder=str(tmp_path / "out"), pairs=pairs)
    assert good > bad + 0.3
    assert "CrossEncoder(" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture(scope="module")
def reference(ranks: RankServer, models: Any, tmp_path_factory: pytest.TempPathFactory) -> CaseResult:
    folder = tmp_path_factory.mktemp("reference")
    data, plan = write_rows(folder / "rows.jsonl", ROWS), tiny_plan(micro_batch_size=8, total_steps=3, rows=96)
    where = folder / "out"
    attempt = pair_attempt(
        models("distilbert"), data, ROWS, where, layout="scored-pair", plan=plan, objective="reranker"
    )
    return ranks.run(attempt, folder / "run")


def test_the_losses_are_those_of_sentence_transformers_own_trainer(
    ranks: RankServer, models: Any, reference: CaseResult
) -> None:
    plain = ranks.call(
        "finetune_trainer.testing_pairs:plain_scores",
        plan=str(reference.folder / "plan.json"),
        model=str(models("distilbert")),
    )
    assert reference.statuses == (0,), reference.log()
    assert list(reference.losses.values()) == pytest.approx(plain, abs=1e-5)


def test_two_ranks_that_accumulate_have_the_losses_of_one_whole_batch(
    ranks: RankServer, make: Any, tmp_path: Path, reference: CaseResult
) -> None:
    plan = tiny_plan(
        strategy=Strategy.DDP, processes=2, micro_batch_size=2, gradient_accumulation=2, total_steps=3, rows=96
    )
    result = ranks.run(make("distilbert", plan), tmp_path / "run")
    assert set(result.statuses) == {0}, result.log()
    assert result.losses == pytest.approx(reference.losses, abs=1e-5)


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(ranks: RankServer, make: Any, tmp_path: Path) -> None:
    plan = tiny_plan(micro_batch_size=8, total_steps=6, rows=96)
    assert_resumes_exactly(ranks, lambda output: make("bert", plan, output=output), tmp_path, stopped_rank=0)
