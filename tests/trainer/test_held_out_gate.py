"""What the evaluation of the last step has measured, on its way to results, status, card and the gate before publication."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.evaluated import EVALUATION_FILE, Evaluated
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.measures import HELD_OUT_MEASURES
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import EvaluatedEvent, EvaluationEvent
from finetune_trainer.after_training.held_out import evaluation_after, figures_of
from finetune_trainer.evaluation import LOG_ENTRIES_KEPT, forget_old_entries
from finetune_trainer.objectives import recipe_of
from finetune_trainer.testing import tiny_plan, write_rows
from finetune_trainer.testing_encoders import encoder_attempt, text_rows
from finetune_trainer.testing_launch import launch
from finetune_trainer.testing_pairs import ROWS, all_texts, pair_attempt
from finetune_trainer.testing_ranks import CaseResult, RankServer

EVERY = {"every": 2}
"""Does not divide the three steps of a run."""


def test_what_can_be_required_is_what_the_objectives_measure() -> None:
    for objective, names in HELD_OUT_MEASURES.items():
        assert set(names) <= {"loss", *recipe_of(objective).held_out.values()}, objective
    scored = [objective for objective in HELD_OUT_MEASURES if recipe_of(objective).scores_untrained]
    assert scored == ["embedding"]


def test_the_last_evaluation_of_the_final_step_counts_beside_that_of_the_first() -> None:
    history = [
        {"step": 0, "eval_loss": 3.0, "eval_spearman": 0.1},
        {"step": 2, "eval_loss": 2.0, "eval_spearman": 0.5},
        {"step": 3, "loss": 1.5},
        {"step": 3, "eval_loss": float("inf"), "eval_spearman": 0.6},
    ]
    last, first = evaluation_after(3, history), evaluation_after(0, history)
    (figure,) = figures_of(("loss", "spearman", "retrieval_accuracy"), last, first)
    assert (figure.name, figure.base, figure.tuned) == ("spearman", 0.1, 0.6), "a loss that is no number is no figure"
    assert figures_of(("loss",), history[1], {})[0].base is None
    assert evaluation_after(1, history) == {}


@pytest.mark.parametrize("first", [0, 1])
def test_the_base_models_evaluation_outlives_the_log_of_a_long_run(first: int) -> None:
    history: list[dict[str, Any]] = []
    for step in range(first, 2 * LOG_ENTRIES_KEPT):
        history.append({"step": step})
        forget_old_entries(history)
    newest = list(range(LOG_ENTRIES_KEPT, 2 * LOG_ENTRIES_KEPT))
    assert [entry["step"] for entry in history] == ([0, *newest] if first == 0 else newest)


@pytest.fixture(scope="module")
def encoder(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    texts = [*all_texts(), *(row["text"] for row in text_rows(96))]
    ranks.call(
        "finetune_trainer.testing_encoders:write_tiny_encoder", folder=str(folder), texts=texts, kind="distilbert"
    )
    return folder


@pytest.fixture
def classify(encoder: Path, tmp_path: Path) -> Any:
    def attempt(*, steps: int = 3, processes: int = 1, **spec: Any) -> AttemptFile:
        rows = text_rows(96)
        plan = tiny_plan(
            strategy=Strategy.SINGLE if processes == 1 else Strategy.DDP,
            processes=processes,
            micro_batch_size=8 // processes,
            total_steps=steps,
            rows=len(rows),
        )
        return encoder_attempt(
            encoder,
            write_rows(tmp_path / "rows.jsonl", rows),
            rows,
            tmp_path / "out",
            objective="classification",
            plan=plan,
            dataset={"split": {"evaluation": 0.2}},
            **spec,
        )

    return attempt


def evaluations(result: CaseResult) -> list[EvaluationEvent]:
    return [event for event in result.events if isinstance(event, EvaluationEvent)]


def require(folder: Path, attempt: AttemptFile, **required: str) -> None:
    """Write the plan file anew, with other requirements."""
    whole = attempt.model_dump(mode="json", by_alias=True)
    whole["spec"]["evaluation"]["require"] = required
    (folder / "plan.json").write_text(json.dumps(whole))


def test_a_pod_that_was_killed_after_the_last_step_judges_its_weights_and_the_gate_holds(
    ranks: RankServer, classify: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    attempt = classify(processes=2, evaluation={**EVERY, "require": {"accuracy": ">1"}})
    trained = ranks.run(attempt, folder)  # and its pod is gone before anything is judged
    assert trained.statuses == (0, 0), trained.log()
    assert [event.step for event in evaluations(trained)] == [2, 3], "nothing is said of a new head before it learns"
    measured = evaluations(trained)[-1]

    # A plan of one pod: the next attempt knows that every step is made.
    again = attempt.model_copy(update={"attempt": 2, "reached_step": 3})
    (folder / "plan.json").write_text(again.model_dump_json(by_alias=True))
    code, message = launch(folder, folder / "plan.json").finish()

    assert (code, message["reason"], message["step"]) == (ExitCode.OK, "Succeeded", 3), message
    assert not (folder / "work" / "attempt-2" / "logs" / "rank-0.log").exists(), "no rank is started for it"
    (path,) = (tmp_path / "out").glob(f"checkpoints/*/{EVALUATION_FILE}")
    kept = Evaluated.model_validate_json(path.read_bytes())
    assert {figure.name: figure.tuned for figure in kept.figures} == {"loss": measured.loss, **measured.measures}
    assert [figure.base for figure in kept.figures] == [None] * 3
    assert (kept.step, kept.rows) == (3, 24)
    assert Evaluated.model_validate(message["evaluation"]) == kept

    refused = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(folder))
    assert (refused["code"], refused["termination"]["reason"]) == (ExitCode.REQUIREMENT_NOT_MET, "RequirementNotMet")
    assert f"accuracy is {measured.measures['accuracy']:.4g}, >1 is required" in refused["termination"]["message"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    require(folder, again, accuracy=">=0", macro_f1="<=1", loss=">=0")
    published = ranks.call("finetune_trainer.testing_cases:publish_case", folder=str(folder))
    assert published["code"] == 0, published
    assert [figure["name"] for figure in published["termination"]["evaluation"]["figures"]] == [
        "loss",
        "accuracy",
        "macro_f1",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "On 24 rows of" in card
    assert f"| accuracy |  | {measured.measures['accuracy']:.4g} |" in card
    assert "generated greedily" not in card


def test_vectors_of_the_base_model_are_measured_before_the_first_step(
    ranks: RankServer, encoder: Path, tmp_path: Path
) -> None:
    rows = ROWS["pair"](96)
    attempt = pair_attempt(
        encoder,
        write_rows(tmp_path / "rows.jsonl", rows),
        rows,
        tmp_path / "out",
        layout="pair",
        objective="embedding",
        plan=tiny_plan(micro_batch_size=8, total_steps=3, rows=96),
        learning_rate=1e-30,  # changes nothing: what is tuned is the base model
        training={"earlyStopping": {"patience": 1}},
        dataset={"split": {"evaluation": 0.2}},
        evaluation={**EVERY, "require": {"retrieval_accuracy": ">=0"}},
    )
    result = ranks.run(attempt, tmp_path / "run")
    assert result.statuses == (0,), result.log()
    assert [event.step for event in evaluations(result)] == [0, 2, 3], "patience does not count the base model"
    assert ranks.call("finetune_trainer.testing_cases:evaluate_case", folder=str(result.folder)) == 0

    (evaluated,) = (event.evaluated for event in result.events if isinstance(event, EvaluatedEvent))
    assert [figure.name for figure in evaluated.figures] == ["loss", "retrieval_accuracy"]
    for figure in evaluated.figures:
        assert figure.base == pytest.approx(figure.tuned, abs=1e-4)


def test_weights_of_a_step_after_an_evaluation_that_was_made_up_for_are_measured_too(
    ranks: RankServer, classify: Any, tmp_path: Path
) -> None:
    # Stopped after step 4, before its evaluation, the one with which the training ends: the next attempt makes up for it, then step 5.
    spec = {"evaluation": EVERY, "training": {"earlyStopping": {"patience": 1}}, "learning_rate": 1e-30}
    stopped = ranks.run(classify(steps=9, **spec), tmp_path / "stopped", probes=("TERM:0:3",))
    assert stopped.statuses == (ExitCode.TERMINATED,), stopped.log()
    resumed = ranks.run(classify(steps=9, **spec), tmp_path / "resumed")
    assert resumed.statuses == (0,), resumed.log()

    assert [event.step for event in (*evaluations(stopped), *evaluations(resumed))] == [2, 4, 5]
    assert ranks.call("finetune_trainer.testing_cases:evaluate_case", folder=str(resumed.folder)) == 0
    (evaluated,) = (event.evaluated for event in resumed.events if isinstance(event, EvaluatedEvent))
    assert evaluated.step == 5
    assert evaluated.figures[0].tuned == evaluations(resumed)[-1].loss
