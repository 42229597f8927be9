"""Rows that models leave out: by what they mean, and by a judge's score; decided once, and trained by exactly that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.chat_endpoint import Reply, said, serving

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.dataset import encoded_rows, rows_digest
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.command import inspect
from finetune_trainer.inspect.meaning import Meanings
from finetune_trainer.inspect.row_scores import shown
from finetune_trainer.rows import Conversation, LabelledWords, Message, Preference, PromptCompletion, RawText
from finetune_trainer.testing import tiny_plan

Build = Callable[..., InspectionRequest]


def directions(angles: Sequence[str]) -> NDArray[np.float32]:
    """Make vectors of texts that are angles in degrees."""
    radians = np.radians(np.array([float(angle) for angle in angles], np.float32))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


@given(st.lists(st.integers(0, 71), max_size=40), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_row_stays_unless_an_earlier_one_that_stayed_means_the_same_however_rows_are_batched(
    places: list[int], sizes: list[int]
) -> None:
    angles = [
        5 * place for place in places
    ]  # neighbours at 5 degrees are alike, those at 10 are not: neither is near the bound
    known, stays = Meanings(directions, float(np.cos(np.radians(7.5)))), list[bool]()
    while len(stays) < len(angles):
        size = sizes[len(stays) % len(sizes)]
        batch = angles[len(stays) : len(stays) + size]
        stays += [reason is None for reason in known.reasons([RawText(str(angle)) for angle in batch])]

    kept: list[int] = []
    for angle, stayed in zip(angles, stays, strict=True):
        apart = [min((angle - other) % 360, (other - angle) % 360) for other in kept]
        assert stayed == (min(apart, default=360) > 5)
        kept += [angle] * stayed


def test_blocks_of_vectors_are_all_compared_with_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.inspect.meaning.BLOCK_ROWS", 3)
    known = Meanings(directions, 0.999, most=8)
    rows = [RawText(str(10 * number)) for number in range(8)]

    assert known.reasons(rows) == [None] * 8
    assert None not in known.reasons(rows)
    with pytest.raises(TrainerFailure, match="at most 8 rows that differ"):
        known.reasons([RawText("95")])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (PromptCompletion("1 + 1 =", "2"), "prompt: 1 + 1 =\ncompletion: 2"),
        (Conversation((Message("user", "Hi"), Message("assistant", "Hello"))), "user: Hi\nassistant: Hello"),
        (
            Preference((Message("user", "Hi"),), (Message("assistant", "Hello"),), (Message("assistant", "No"),)),
            "prompt:\nuser: Hi\nchosen:\nassistant: Hello\nrejected:\nassistant: No",
        ),
        (LabelledWords(("Ada", "sings"), ("PER", "O")), "words: Ada sings\nlabels: PER O"),
    ],
)
def test_a_judge_is_shown_every_part_of_a_row_under_its_name(value: Any, text: str) -> None:
    assert shown(value) == text


def by_number(prompt: str) -> Reply:
    """Give the example n + 1 a score of 1 to 4, by n; that of 7 none."""
    number = int(prompt.partition("prompt: ")[2].split(" +")[0])
    return said("I cannot say" if number == 7 else f"Score: {1 + number % 4}")


def judged(url: str, **dataset: Any) -> dict[str, Any]:
    return {"filters": {"judge": {"url": url, "model": "big", "leastScore": 3}}, **dataset}


def attempt_of(request: InspectionRequest, report: InspectionReport) -> AttemptFile:
    return AttemptFile(
        namespace="team", name="bot", uid="uid-1", attempt=1, spec=request.spec, inspection=report,
        plan=tiny_plan(max_length=64), checkpoint_uri="file:///unused",
    )  # fmt: skip


def trained(attempt: AttemptFile) -> list[Any]:
    (dataset,) = attempt.spec.all_datasets
    return [each.value for each in encoded_rows(attempt, dataset, dataset.uri) if not each.is_evaluated]


def test_rows_below_the_score_are_named_and_neither_counted_nor_trained(
    request_for: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(by=by_number) as endpoint:
        request = request_for(dataset=judged(endpoint.url, split={"evaluation": 0.2}), training={"maxLength": 64})
        report = inspect(request, tmp_path / "report.json")

    facts = report.dataset
    assert facts.filtered_by_reason == {
        "filters.judge: it has a score below 3": 50,
        "filters.judge: the judge's reply had no score from 1 to 5": 1,
    }
    assert facts.evaluation is not None
    assert facts.rows + facts.evaluation.rows == 49
    assert {key for _, key, _ in endpoint.asked} == {"Bearer secret"}
    full = json.loads(Path(str(report.report_uri).removeprefix("file://")).read_text())
    assert [row["line"] for row in full["leftOut"]] == [n + 1 for n in range(100) if n % 4 < 2 or n == 7]
    rows = trained(attempt_of(request, report))
    assert len(rows) == facts.rows
    assert all(int(row.prompt.split(" +")[0]) % 4 >= 2 for row in rows)


def test_decisions_that_are_gone_or_others_are_inputs_that_changed(request_for: Build, tmp_path: Path) -> None:
    with serving(by=by_number) as endpoint:
        request = request_for(dataset=judged(endpoint.url), training={"maxLength": 64})
        attempt = attempt_of(request, inspect(request, tmp_path / "report.json"))
    decided = attempt.inspection.decisions
    assert decided is not None
    path = Path(decided.uri.removeprefix("file://"))
    other = attempt.inspection.model_copy(update={"decisions": decided.model_copy(update={"etag": "0" * 64})})
    assert rows_digest(attempt) != rows_digest(attempt.model_copy(update={"inspection": other}))

    with pytest.raises(TrainerFailure, match="is another file now") as changed:
        trained(attempt.model_copy(update={"inspection": other}))
    path.unlink()
    missing = attempt.inspection.model_copy(update={"decisions": decided.model_copy(update={"size": 0})})
    with pytest.raises(TrainerFailure, match="and that is gone") as gone:
        trained(attempt.model_copy(update={"inspection": missing}))

    assert {changed.value.exit_code, gone.value.exit_code} == {ExitCode.INPUTS_CHANGED}


def test_an_inspection_that_is_tried_again_asks_the_judge_about_no_row_twice(
    request_for: Build, tmp_path: Path
) -> None:
    def failing(prompt: str) -> Reply:
        return (404, b"", {}) if "prompt: 60 +" in prompt else by_number(prompt)

    output = tmp_path / "report.json"
    with serving(by=failing) as endpoint:
        request = request_for(dataset=judged(endpoint.url), training={"maxLength": 64})
        with pytest.raises(
            TrainerFailure, match=r"does not score rows \(HTTP 404\); .* Scores that it gave are kept"
        ) as failure:
            inspect(request, output)
        first = {body["messages"][0]["content"] for _, _, body in endpoint.asked}
        assert failure.value.exit_code is ExitCode.NOT_FOUND
        endpoint.by = by_number
        endpoint.asked.clear()
        inspect(request, output)
        second = [body["messages"][0]["content"] for _, _, body in endpoint.asked]
        endpoint.asked.clear()
        inspect(request, output)

    refused = {prompt for prompt in first if "prompt: 60 +" in prompt}
    assert len(refused) == 1
    assert len(second) == len(set(second))
    assert first & set(second) == refused
    assert len(first | set(second)) == 100
    assert endpoint.asked == []


def test_each_of_several_data_sets_has_decisions_of_its_own(request_for: Build, rows: Path, tmp_path: Path) -> None:
    own = tmp_path / "held-out.jsonl"
    own.write_text("".join(rows.read_text().splitlines(keepends=True)[:40]))
    plain = tmp_path / "plain.jsonl"
    plain.write_text(own.read_text())
    with serving(by=by_number) as endpoint:
        document = request_for(training={"maxLength": 64}).to_json_dict()
        del document["spec"]["dataset"]
        document["spec"]["datasets"] = [
            {"uri": f"file://{plain}"},
            judged(endpoint.url, uri=f"file://{rows}", evaluation={"uri": f"file://{own}"}),
        ]
        request = InspectionRequest.model_validate(document)
        report = inspect(request, tmp_path / "report.json")

    assert len(endpoint.asked) == 100  # the rows to evaluate on are equal to some of these
    assert [source.rows for source in report.dataset.sources] == [40, 49]
    assert report.dataset.evaluation is not None
    assert report.dataset.evaluation.rows == 19
    attempt = attempt_of(request, report)
    first, second = attempt.spec.all_datasets
    assert second.evaluation is not None
    found = [(first, first.uri), (second, second.uri), (second, second.evaluation.uri)]
    assert [len(list(encoded_rows(attempt, *each))) for each in found] == [40, 49, 19]
