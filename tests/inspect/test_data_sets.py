"""Several data sets in one job: each by its own settings, weighted, and counted alike by inspection and training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.datasets import WeightedDataset
from finetune_operator.api.evaluation import Split
from finetune_operator.api.inspection import InspectionReport, InspectionRequest, inspection_key
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.after_training.rows import judged_rows
from finetune_trainer.dataset import EncodedFiles, encode_dataset, load_dataset
from finetune_trainer.dataset_files import find_files
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import check_inputs
from finetune_trainer.inspect.command import inspect
from finetune_trainer.inspect.data_sets import SurveyedDataset, together
from finetune_trainer.inspect.survey import Survey
from finetune_trainer.inspect.verdict import check_data
from finetune_trainer.publish.data_lines import data_lines
from finetune_trainer.row_selection import is_evaluated, times_trained
from finetune_trainer.rows import LabelledText, PromptCompletion
from finetune_trainer.testing import tiny_plan

Build = Callable[..., InspectionRequest]
ROWS = [PromptCompletion(str(number), "x") for number in range(2000)]


@given(text=st.text(max_size=5), weight=st.floats(0.01, 100), more=st.floats(0, 3), seed=st.integers(0, 2**31 - 1))
def test_a_row_is_learned_as_often_as_its_weight_says(text: str, weight: float, more: float, seed: int) -> None:
    value = PromptCompletion(text, "")
    times = times_trained(value, weight, seed)
    assert int(weight) <= times <= int(weight) + 1
    assert times == weight or weight != int(weight)
    assert times <= times_trained(value, weight + more, seed)


def test_a_fraction_is_about_that_share_of_rows_another_with_each_seed_and_no_part_of_a_split() -> None:
    one, other = ({row for row in ROWS if times_trained(row, 0.3, seed)} for seed in (1, 2))
    assert len(one) == pytest.approx(600, rel=0.1)
    assert len(one & other) == pytest.approx(180, rel=0.2)
    kept = {row for row in ROWS if is_evaluated(row, Split(evaluation=0.5, seed=1))}
    assert len(one & kept) == pytest.approx(300, rel=0.15)


def write(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return f"file://{path}"


def sums(start: int, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{n} + 1 = ", "completion": f"{n + 1}"} for n in range(start, start + count)]


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": "Add " * (n % 9 + 1)}, {"role": "assistant", "content": f"{n}"}]}
        for n in range(count)
    ]


@pytest.fixture
def of_datasets(request_for: Build) -> Callable[..., InspectionRequest]:
    def build(*datasets: dict[str, Any], **parts: Any) -> InspectionRequest:
        request = request_for()
        spec = request.spec.to_json_dict()
        del spec["dataset"]
        return request.model_validate({**request.to_json_dict(), "spec": {**spec, **parts, "datasets": datasets}})

    return build


def report_of(request: InspectionRequest, tmp_path: Path) -> InspectionReport:
    return inspect(request, tmp_path / "report.json")


def attempt_of(request: InspectionRequest, report: InspectionReport, **plan: Any) -> AttemptFile:
    return AttemptFile(
        namespace="team", name="bot", uid="uid-1", attempt=1, spec=request.spec, inspection=report,
        plan=tiny_plan(**plan), checkpoint_uri="file:///unused",
    )  # fmt: skip


def lengths_in(files: EncodedFiles) -> tuple[Counter[int], int]:
    evaluated = 0 if files.evaluation is None else len(load_dataset(files.evaluation))
    return Counter(len(row["input_ids"]) for row in load_dataset(files.training)), evaluated


SPLIT = {"split": {"evaluation": 0.2}}


def test_training_has_the_rows_that_the_inspection_counted(of_datasets: Build, tmp_path: Path) -> None:
    plain = write(tmp_path / "a" / "rows.jsonl", [*sums(0, 100), "bad", *sums(0, 10)])
    talk = write(tmp_path / "b" / "rows.jsonl", [*chats(60), '{"messages": []}'])
    request = of_datasets(
        {"uri": plain, "weight": 0.4, **SPLIT, "filters": {"deduplicate": "exact"}},
        {"uri": talk, "weight": 2.5, **SPLIT},
    )
    report = report_of(request, tmp_path)
    facts = report.dataset
    first, second = facts.sources

    assert (first.format, second.format, facts.format) == (
        "prompt-completion", "messages", "prompt-completion, messages",
    )  # fmt: skip
    assert first.usable + first.evaluated == 100
    assert second.usable + second.evaluated == 60
    assert (first.filtered, second.filtered, first.dropped, second.dropped) == (10, 0, 1, 1)
    assert 0 < first.rows < first.usable
    assert 2 * second.usable < second.rows < 3 * second.usable
    assert facts.rows == first.rows + second.rows
    assert facts.evaluation is not None
    assert facts.evaluation.rows == first.evaluated + second.evaluated
    assert [(problem.file, problem.line) for problem in facts.problems] == [(plain, 101), (talk, 61)]

    attempt = attempt_of(request, report, rows=facts.rows)
    check_inputs(attempt)
    lengths, evaluated = lengths_in(encode_dataset(attempt, tmp_path / "work"))
    assert evaluated == facts.evaluation.rows
    assert sum(lengths.values()) == facts.rows
    assert sum(length * count for length, count in lengths.items()) == facts.tokens.total

    written = json.loads(Path((report.report_uri or "").removeprefix("file://")).read_text())
    assert [(each["rows"], each["dropped"]) for each in written["sources"]] == [(first.rows, 1), (second.rows, 1)]
    card = "\n".join(data_lines(facts))
    assert f"| `{talk}` | messages | 2.5 | {second.usable} | {second.rows} | {second.evaluated} | 1 |" in card
    assert all(f"| `{file.uri}` | {file.size} | {file.etag} |" in card for file in facts.files)


@pytest.mark.parametrize("packed", [False, True])
def test_documents_are_weighted_with_all_their_pieces(packed: bool, of_datasets: Build, tmp_path: Path) -> None:
    texts = [
        write(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n} " * (n % 7 + 1)} for n in range(40)]) for name in "ab"
    ]
    request = of_datasets(
        {"uri": texts[0], "weight": 1.5},
        {"uri": texts[1], "weight": 0.5},
        objective="pretrain",
        training={"maxLength": 16},
    )
    report = report_of(request, tmp_path)
    facts = report.dataset
    assert facts.documents == 80
    assert facts.packed is not None
    attempt = attempt_of(request, report, rows=facts.rows, max_length=16, packed=packed)
    lengths, _ = lengths_in(encode_dataset(attempt, tmp_path / "work"))
    assert sum(length * count for length, count in lengths.items()) == facts.tokens.total
    assert sum(lengths.values()) == (facts.packed.sequences if packed else facts.rows)


def test_rows_of_one_data_set_are_counted_as_before(request_for: Build, rows: Path, tmp_path: Path) -> None:
    facts = report_of(request_for(), tmp_path).dataset
    assert (facts.rows, facts.sources, facts.problems) == (100, (), ())
    assert [file.uri for file in facts.files] == [f"file://{rows}"]


def test_rows_that_are_judged_are_some_of_each_data_set(of_datasets: Build, tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", sums(0, 30)), write(tmp_path / "b.jsonl", sums(500, 30))
    own = write(tmp_path / "own.jsonl", sums(700, 5))
    request = of_datasets(
        {"uri": one, "evaluation": {"uri": own}, "weight": 3},
        {"uri": other, "evaluation": {"uri": write(tmp_path / "more.jsonl", sums(800, 9))}},
        evaluation={"metrics": ["bleu"], "maxRows": 6},
    )
    report = report_of(request, tmp_path)
    assert report.dataset.rows == 120
    assert report.dataset.evaluation is not None
    assert report.dataset.evaluation.rows == 14
    asked = [question.asked for question in judged_rows(attempt_of(request, report)).questions]
    assert asked == [f"{number} + 1 = " for number in (700, 800, 701, 801, 702, 802)]


def test_a_data_set_of_too_many_unusable_rows_is_named(of_datasets: Build, tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.jsonl", sums(0, 1000)), write(tmp_path / "b.jsonl", [*sums(0, 9), "bad"])
    with pytest.raises(TrainerFailure, match=r"1 of 10 rows of .*b\.jsonl .*b\.jsonl:10: not valid JSON"):
        report_of(of_datasets({"uri": good}, {"uri": bad}), tmp_path)


def test_a_weight_that_takes_no_row_is_refused(of_datasets: Build, tmp_path: Path) -> None:
    good, few = write(tmp_path / "a.jsonl", sums(0, 10)), write(tmp_path / "b.jsonl", sums(0, 2))
    with pytest.raises(TrainerFailure, match=r"the weight of .*b\.jsonl takes none of its 2 usable rows; raise it"):
        report_of(of_datasets({"uri": good}, {"uri": few, "weight": 0.001}), tmp_path)


def surveyed(layout: str, survey: Survey, folder: Path) -> SurveyedDataset:
    uri = write(folder / f"{layout}.jsonl", sums(0, 1))
    return SurveyedDataset(WeightedDataset(uri=uri), layout, find_files(uri), survey)


def survey_of(*labels: str, times: int = 1) -> Survey:
    survey = Survey()
    for label in labels:
        survey.note_row(LabelledText("text", None, label), {"row": 3}, 8, times)
    return survey


def test_vectors_are_learned_of_one_format(tmp_path: Path) -> None:
    found = [surveyed(layout, survey_of("x"), tmp_path) for layout in ("pair", "triplet")]
    both = together([each.survey for each in found])
    assert "formats pair, triplet" in str(check_data(found, both, Objective.EMBEDDING))
    assert check_data(found, both, Objective.SFT) is None


def test_classes_are_those_of_all_data_sets(tmp_path: Path) -> None:
    found = [surveyed(name, survey_of(name), tmp_path) for name in ("cat", "dog")]
    assert check_data(found, together([each.survey for each in found]), Objective.CLASSIFICATION) is None
    assert "same class" in str(check_data(found[:1], found[0].survey, Objective.CLASSIFICATION))


def test_a_class_of_rows_that_no_weight_takes_has_a_number_and_no_rows() -> None:
    one, other = survey_of("cat", times=2), survey_of("dog", times=0)
    both = together([one, other])
    assert both.labels == {"cat": 2, "dog": 0}
    assert (both.rows, both.used) == (2, 2)


def test_another_seed_or_weight_is_inspected_anew(of_datasets: Build, tmp_path: Path) -> None:
    uri = write(tmp_path / "a.jsonl", sums(0, 10))
    requests = [
        of_datasets({"uri": uri, "weight": weight}, training={"seed": seed})
        for weight, seed in ((0.5, 1), (0.5, 2), (0.6, 1))
    ]
    assert len({inspection_key("team", request.spec) for request in requests}) == 3


def test_a_file_that_changed_in_any_data_set_stops_the_training(of_datasets: Build, tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", sums(0, 10)), write(tmp_path / "b.jsonl", sums(20, 10))
    request = of_datasets({"uri": one}, {"uri": other})
    attempt = attempt_of(request, report_of(request, tmp_path))
    check_inputs(attempt)
    write(tmp_path / "b.jsonl", sums(20, 11))
    with pytest.raises(TrainerFailure, match=r"the data set changed after the inspection: .*b\.jsonl"):
        check_inputs(attempt)
