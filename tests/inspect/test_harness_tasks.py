"""Tasks of lm-evaluation-harness and their measures, as far as their files tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.api.evaluated import Figure, unmet
from finetune_operator.api.evaluation import Evaluation
from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.harness_tasks import check_tasks, measures_of, tasks_in

SUMS = """
task: sums
output_type: generate_until
process_results: !function code.results
metric_list: [{metric: exact_match}, {metric: f1}]
"""
FILTERED = (
    SUMS.replace("task: sums", "task: strict") + "filter_list: [{name: none, filter: []}, {name: digits, filter: []}]"
)


def evaluation(folder: Path, task: str, name: str | None = None, required: str = ">=0.4") -> Evaluation:
    (folder / "sums.yaml").write_text(SUMS)
    (folder / "strict.yml").write_text(FILTERED)
    (folder / "rows.jsonl").write_text("{}")
    (folder / "broken.yaml").write_text("a: [")
    asked = {"tasks": [{"name": name, "required": required}]} if name else None
    return Evaluation.model_validate({"harness": {"uri": f"file://{folder}", "tasks": [task]}, "require": asked})


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("sums", None),
        ("sums", "sums.exact_match"),
        ("sums", "sums.f1"),
        ("strict", "strict.f1"),
        ("strict", "strict.f1.digits"),
    ],
)
def test_a_measure_that_a_task_has_can_be_required(task: str, name: str | None, tmp_path: Path) -> None:
    asked = evaluation(tmp_path, task, name)
    check_tasks(asked)
    assert (asked.require.given if asked.require else {}) == ({name: ">=0.4"} if name else {})


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("sum", None, r"has no task sum \(it has: strict, sums\)"),
        ("sums", "sums.acc", r"sums.acc is no measure of task sums; name one of its own \(sums.exact_match, sums.f1\)"),
        ("strict", "strict.f1.words", r"strict.f1, strict.f1.digits"),
    ],
)
def test_a_task_or_measure_that_is_not_there_is_refused_with_those_that_are(
    task: str, name: str | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainerFailure, match=said) as refused:
        check_tasks(evaluation(tmp_path, task, name))
    assert refused.value.exit_code is ExitCode.BAD_SPEC


@pytest.mark.parametrize(
    "text",
    [
        "task: a\noutput_type: multiple_choice",
        "task: a\ninclude: b.yaml\nmetric_list: [{metric: acc}]",
        "task: a\nmetric_list: [{metric: !function code.own}]",
    ],
)
def test_measures_that_a_file_alone_does_not_tell_are_left_to_the_harness(text: str) -> None:
    assert measures_of(tasks_in(text.encode())["a"]) is None


def test_groups_and_tags_are_tasks_that_can_be_named() -> None:
    assert sorted(tasks_in(b"group: all\ntask: [one, two]")) == ["all"]
    assert sorted(tasks_in(b"task: one\ntag: [small, sums]")) == ["one", "small", "sums"]


def test_a_measure_that_was_not_measured_is_told_with_those_that_were() -> None:
    figures = (Figure(name="sums.f1", base=0.1, tuned=0.5), Figure(name="perplexity", base=2.0, tuned=1.0))
    (problem,) = unmet({"sums.acc": ">=0.4"}, figures)
    assert problem == "sums.acc was not measured, >=0.4 is required (measured: perplexity, sums.f1)"
    assert unmet({"sums.f1": ">=0.5"}, figures) == []
