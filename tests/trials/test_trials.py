"""The trials on real data: their manifests, their rows, their curves, and what they say where the data is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart import chart, smoothed
from gsm8k import pairs, prepare
from trials import TRIALS, curve, errors_apart, table

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.measures import MEASURES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_trial_is_a_job_with_rows_held_out_and_looked_at_by_numbers_that_are_measured(trial: object) -> None:
    (found,) = [each for each in TRIALS if each is trial]
    job = FineTuneJob.model_validate(yaml.safe_load((ROOT / "trials" / f"{found.name}.yaml").read_text()))
    assert job.metadata.name == f"trial-{found.name}"
    assert job.spec.evaluates is (job.spec.training.online is None)
    assert {name.partition(":")[0] for name in (*found.curves, *found.held_out)} <= {"loss", *MEASURES}


def test_pairs_are_of_one_question_and_whole_questions_are_held_out(tmp_path: Path) -> None:
    def judged(number: int, *correct: bool) -> dict[str, object]:
        said = {f"model-{i}": {"is_correct": ok, "solution": f"{number}: {i} {ok}"} for i, ok in enumerate(correct)}
        return {"question": f"question {number}", "ground_truth": "1", **said}

    assert [(row["chosen"], row["rejected"]) for row in pairs(judged(7, True, False, True, False))] == [
        ("7: 0 True", "7: 1 False"),
        ("7: 0 True", "7: 3 False"),
        ("7: 2 True", "7: 1 False"),
        ("7: 2 True", "7: 3 False"),
    ]
    assert list(pairs(judged(7, True, True))) == list(pairs(judged(7, False))) == []

    solved = ({"question": f"question {number}", "answer": "#### 1"} for number in range(20))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solved))
    rows = (judged(number, True, False, True, False) for number in range(20))
    (tmp_path / "example_model_solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = prepare(tmp_path, tmp_path / "data")

    assert counts == {
        "solutions": 18,
        "solutions-held-out": 2,
        "questions": 18,
        "questions-held-out": 2,
        "pairs": 72,
        "pairs-held-out": 8,
    }
    held_out = [json.loads(line) for line in (tmp_path / "data" / "pairs-held-out.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in held_out} == {"question 9", "question 19"}


def test_curves_have_their_highest_and_lowest_value_beside_them_and_tables_the_tenths() -> None:
    values = [float(step) for step in range(100)]
    drawn = chart(values, width=10, height=2).splitlines()
    assert [line.split()[0] for line in drawn] == ["94.5", "4.5"]
    assert drawn[0].endswith("█")
    assert len(drawn) == 2
    assert smoothed([1.0, 3.0], 60) == [1.0, 3.0]
    events = [{"event": "step", "loss": 2.0, "measures": {"kl": 1.0}}, {"event": "evaluation", "loss": 9.0}]
    assert (curve(events, "step", "loss"), curve(events, "step", "kl")) == ([2.0], [1.0])
    seen = {"first_tenth": 4.5, "last_tenth": 94.5, "values": values}
    made = table([{"trial": "sft", "steps": 100, "seconds": 61.2, "curves": {"loss": seen}, "held_out": {}}])
    assert made.splitlines()[-1] == "| sft | 100 | 61 | loss | 4.5 | 94.5 |  |  |"


def test_a_curve_moves_by_the_standard_errors_between_its_first_tenth_and_its_last_third() -> None:
    noise = [0.5, -0.5] * 30
    assert abs(errors_apart(noise)) < 1
    learned_at_once = [value + (step >= 6) * 2.0 for step, value in enumerate(noise)]
    # 2.0 apart; six steps with a variance of 0.3, twenty with one of 5/19.
    assert errors_apart(learned_at_once) == pytest.approx(2.0 / (0.3 / 6 + 5 / 19 / 20) ** 0.5)
    assert errors_apart([-value for value in learned_at_once]) == pytest.approx(-errors_apart(learned_at_once))
    assert errors_apart([1.0] * 19) == 0.0
    assert errors_apart([1.0] * 30) == 0.0


def test_where_the_data_is_not_the_trials_say_so_and_fail_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "trials/trials.py", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said, machine = done.stdout.splitlines()
    assert said.startswith("NOT RUN: train.jsonl, example_model_solutions.jsonl of GSM8K are not here")
    assert json.loads(machine)["trials"] == []
