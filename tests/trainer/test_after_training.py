"""The evaluation after the training: the libraries' own figures, base beside tuned model, and the gate before publication."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.evaluated import EVALUATION_FILE, Evaluated, Figure, unmet
from finetune_operator.api.evaluators import Entailment
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.run_events import EvaluatedEvent, EvaluatingEvent, EvaluationEvent
from finetune_trainer.after_training.scores import bleu, exact_match, rouge, word_f1
from finetune_trainer.entailment_model import entailment_class, inspect_entailment_model
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.testing import arithmetic_rows, tiny_plan, write_rows
from finetune_trainer.testing_ranks import CaseResult, RankServer

METRICS = ["perplexity", "exact_match", "f1", "rouge", "bleu"]


def test_rouge_is_that_of_rouge_scores_own_example() -> None:
    # The README of rouge-score 0.1.2: F 0.7058… of rouge1 and 0.5882… of rougeL.
    found = rouge(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
    assert found["rouge1"] == pytest.approx(2 * 0.75 * 0.6666666 / (0.75 + 0.6666666), abs=1e-6)
    assert found["rougeL"] == pytest.approx(2 * 0.625 * 0.5555555 / (0.625 + 0.5555555), abs=1e-6)


def test_bleu_is_that_of_sacrebleus_own_example() -> None:
    # The README of sacrebleu: BLEU = 48.530827…
    first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert bleu(answers, first, second)["bleu"] == pytest.approx(48.530827, abs=1e-5)


def test_words_are_compared_as_squad_compares_them() -> None:
    assert exact_match(["The  Eiffel Tower!", "two"], ["eiffel tower", "2"]) == {"exact_match": 0.5}
    # Four words of five and three of four: F1 = 2 · 3 / (5 + 4) after the article has gone.
    assert word_f1(["the cat sat on mats today"], ["a cat sat on chairs"])["f1"] == pytest.approx(6 / 9)
    assert word_f1([""], ["word"]) == {"f1": 0.0}


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ({"rouge1": ">=0.4", "perplexity": "<12"}, []),
        ({"rouge1": ">0.4"}, ["rouge1 is 0.4, >0.4 is required"]),
        ({"perplexity": "<=9.99"}, ["perplexity is 10, <=9.99 is required"]),
        ({"bleu": ">1"}, ["bleu was not measured, >1 is required (measured: perplexity, rouge1)"]),
    ],
)
def test_a_requirement_is_met_by_the_tuned_models_number(required: dict[str, str], said: list[str]) -> None:
    figures = (Figure(name="rouge1", base=0.9, tuned=0.4), Figure(name="perplexity", base=20.0, tuned=10.0))
    assert unmet(required, figures) == said


@pytest.fixture
def make(tiny_model: Path, make_attempt: Any, tmp_path: Path) -> Any:
    kept = write_rows(tmp_path / "evaluation.jsonl", arithmetic_rows(9, seed=7))

    def attempt(*, method: str = "lora", output: str = "out", steps: int = 3, **evaluation: Any) -> Any:
        plan = tiny_plan(micro_batch_size=8, total_steps=steps).model_copy(update={"evaluation_batch_size": 4})
        return make_attempt(
            plan,
            output=output,
            tuning={"method": method},
            dataset={"evaluation": {"uri": f"file://{kept}"}},
            evaluation={"metrics": METRICS, "maxRows": 7, "maxNewTokens": 12, **evaluation},
        )

    return attempt


def told_rows(result: CaseResult) -> list[tuple[int, int]]:
    """How far the evaluation said it was, of how many rows."""
    return [(event.rows, event.total_rows) for event in result.events if isinstance(event, EvaluatingEvent)]


def evaluate(ranks: RankServer, result: CaseResult) -> int:
    code: int = ranks.call("finetune_trainer.testing_cases:evaluate_case", folder=str(result.folder))
    return code


def publish(ranks: RankServer, result: CaseResult) -> dict[str, Any]:
    answer: dict[str, Any] = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(result.folder))
    return answer


def test_answers_that_follow_are_those_that_transformers_pipeline_says_follow(
    ranks: RankServer, tiny_model: Path, tmp_path: Path
) -> None:
    texts = [message["content"] for row in arithmetic_rows(12, seed=3) for message in row["messages"]]
    premises, hypotheses = texts[::2], texts[1::2]
    said = ranks.call(
        "finetune_trainer.testing_encoders:write_tiny_entailment",
        folder=str(tmp_path),
        texts=texts,
        premises=premises,
        hypotheses=hypotheses,
    )
    share = ranks.call(
        "finetune_trainer.after_training.entailment:entailed_share",
        folder=str(tmp_path),
        references=premises,
        answers=hypotheses,
    )
    assert share == pytest.approx(said.count("entailment") / len(said))
    assert len(set(said)) > 1, "a model that says one thing of all would prove little"
    weights = inspect_entailment_model(Entailment(uri=f"file://{tmp_path}"))
    assert weights == (tmp_path / "model.safetensors").stat().st_size
    with pytest.raises(TrainerFailure, match="has no class entailment"):
        inspect_entailment_model(Entailment(uri=f"file://{tiny_model}"))


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ({"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}, 2),
        ({"0": "entailment", "1": "not_entailment"}, 0),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),
        ({}, None),
    ],
)
def test_a_classifier_serves_by_its_class_entailment(names: dict[str, str], number: int | None) -> None:
    assert entailment_class({"id2label": names}) == number


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_base_model_stands_beside_the_tuned_one_in_bucket_events_and_card(
    method: str, ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    result = ranks.run(make(method=method, maxRows=9), tmp_path / "run")
    assert evaluate(ranks, result) == 0

    (path,) = (tmp_path / "out").glob(f"checkpoints/*/{EVALUATION_FILE}")
    evaluated = Evaluated.model_validate_json(path.read_bytes())
    assert (evaluated.step, evaluated.rows) == (3, 9)
    figures = {figure.name: figure for figure in evaluated.figures}
    assert list(figures) == ["perplexity", "exact_match", "f1", "rouge1", "rouge2", "rougeL", "bleu"]
    base, tuned = figures["perplexity"].base, figures["perplexity"].tuned
    # The rows and labels of the evaluation during training: e to its last loss.
    last = [event.loss for event in result.events if isinstance(event, EvaluationEvent)][-1]
    assert tuned == pytest.approx(2.718281828**last, rel=1e-3)
    assert base is not None
    assert base > 1.02 * tuned
    assert [event.evaluated for event in result.events if isinstance(event, EvaluatedEvent)] == [evaluated]
    # Loss and answers to 9 rows, by both models.
    assert told_rows(result)[-1] == (36, 36)
    assert evaluate(ranks, result) == 0
    assert Evaluated.model_validate_json(path.read_bytes()) == evaluated, "it is measured once"

    answer = publish(ranks, result)
    assert answer["code"] == 0, answer
    assert f"| perplexity | {base:.4g} | {tuned:.4g} |" in (tmp_path / "out" / "README.md").read_text()
    assert answer["termination"]["evaluation"]["figures"][0]["name"] == "perplexity"


SUMS = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows/sums.jsonl}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}\\n"
{more}
"""


def test_tasks_of_the_harness_are_run_from_a_folder_alone(ranks: RankServer, make: Any, tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1), "choices": ["no", str(n + 1)]} for n in range(6)]
    write_rows(tmp_path / "tasks" / "rows" / "sums.jsonl", rows)
    written = 'doc_to_target: answer\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]'
    chosen = "doc_to_choice: choices\ndoc_to_target: 1\nmetric_list: [{metric: acc}]"
    for name, kind, more in (("written", "generate_until", written), ("chosen", "multiple_choice", chosen)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(SUMS.format(name=name, kind=kind, more=more))
    harness = {"uri": f"file://{tmp_path}/tasks", "tasks": ["written", "chosen"]}
    result = ranks.run(make(steps=1, metrics=[], maxRows=4, harness=harness), tmp_path / "run")
    assert evaluate(ranks, result) == 0, (result.folder / "evaluation.log").read_text()[-3000:]

    (event,) = (event for event in result.events if isinstance(event, EvaluatedEvent))
    figures = {figure.name: figure for figure in event.evaluated.figures}
    assert sorted(figures) == ["chosen.acc", "written.exact_match"]
    # Of both models four answers, and two choices for each of four rows.
    assert told_rows(result)[-1] == (24, 24)
    assert figures["written.exact_match"].tuned == 0.0
    # Four rows are asked; with two choices nobody is right in a fifth of them.
    assert figures["chosen.acc"].base in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_a_model_that_misses_a_requirement_is_kept_and_not_published(
    ranks: RankServer, make: Any, tmp_path: Path
) -> None:
    result = ranks.run(make(steps=1, metrics=["perplexity"], require={"perplexity": "<1.5"}), tmp_path / "run")
    before = publish(ranks, result)
    assert before["code"] == ExitCode.REQUIREMENT_NOT_MET
    assert "perplexity was not measured" in before["termination"]["message"]
    assert evaluate(ranks, result) == 0

    answer = publish(ranks, result)

    assert answer["code"] == ExitCode.REQUIREMENT_NOT_MET
    assert answer["termination"]["reason"] == "RequirementNotMet"
    assert "<1.5 is required; the model is not published" in answer["termination"]["message"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").glob("checkpoints/*/step-*/*/manifest.json"))
    figures = answer["termination"]["evaluation"]["figures"]
    assert json.dumps(figures).count("perplexity") == 1
