"""Rows that the user does not want: which they are, how they are counted, and that training leaves out the same."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.inputs import Filters
from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.dataset import encoded_rows
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.command import inspect
from finetune_trainer.row_filters import RowFilter
from finetune_trainer.rows import Conversation, Message, PromptCompletion
from finetune_trainer.testing import tiny_plan

Build = Callable[..., InspectionRequest]


def filters(**fields: Any) -> Filters:
    return Filters.model_validate(fields)


def kept(rows: list[PromptCompletion], **fields: Any) -> list[PromptCompletion]:
    chosen = RowFilter(filters(**fields))
    return [row for row in rows if chosen.reason(row, lambda: 5) is None]


@given(st.lists(st.text(max_size=3)))
def test_of_equal_rows_the_first_stays(texts: list[str]) -> None:
    rows = [PromptCompletion(text, "") for text in texts]
    assert kept(rows, deduplicate="exact") == list(dict.fromkeys(rows))
    # Equal rows have equal signatures: what is left out as equal is left out as alike.
    assert set(kept(rows, deduplicate="minhash")) <= set(rows)
    assert len(kept(rows, deduplicate="minhash")) <= len(set(rows))


def changed(words: list[str], share: float, source: random.Random) -> str:
    return " ".join(str(source.random()) if source.random() < share else word for word in words)


def test_texts_that_differ_in_a_few_words_are_nearly_the_same_and_others_are_not() -> None:
    source = random.Random(0)
    alike = unlike = 0
    for _ in range(100):
        words = [f"word{source.randrange(10_000)}" for _ in range(200)]
        text = " ".join(words)
        # 2 % of the words are in about 6 % of the shingles: a Jaccard similarity of 0.89. Of a third, 0.17.
        alike += (
            len(
                kept(
                    [PromptCompletion(text, ""), PromptCompletion(changed(words, 0.02, source), "")],
                    deduplicate="minhash",
                )
            )
            == 1
        )
        unlike += (
            len(
                kept(
                    [PromptCompletion(text, ""), PromptCompletion(changed(words, 0.33, source), "")],
                    deduplicate="minhash",
                )
            )
            == 2
        )
    assert alike >= 97
    assert unlike >= 97


def test_a_system_message_that_all_rows_have_does_not_make_them_alike() -> None:
    system = Message("system", " ".join(f"rule{number}" for number in range(300)))
    chosen = RowFilter(filters(deduplicate="minhash"))
    for question in ("what is the capital of France", "how many apples does Ada have now"):
        row = Conversation((system, Message("user", question), Message("assistant", f"an answer to {question}")))
        assert chosen.reason(row, lambda: 5) is None


def test_text_without_spaces_is_compared_by_characters() -> None:
    text = "".join(chr(0x4E00 + n * 7 % 500) for n in range(200))
    rows = [PromptCompletion(text, ""), PromptCompletion(text[:-1] + "x", ""), PromptCompletion(text[::-1], "")]
    assert kept(rows, deduplicate="minhash") == [rows[0], rows[2]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"keywords": {"deny": ["zebra", "AS AN AI"]}}, "filters.keywords.deny: it has keyword 2 of the list"),
        ({"keywords": {"allow": ["zebra"]}}, "filters.keywords.allow: it has none of them"),
        ({"minTokens": 6}, "filters.minTokens: it has fewer than 6"),
        ({"maxTokens": 4}, "filters.maxTokens: it has more than 4"),
        ({"minTokens": 5, "maxTokens": 5, "keywords": {"deny": ["zebra"], "allow": ["an ai"]}}, None),
    ],
)
def test_a_row_that_is_left_out_says_why_without_its_content(fields: dict[str, Any], reason: str | None) -> None:
    assert RowFilter(filters(**fields)).reason(PromptCompletion("Hello", "As an AI …"), lambda: 5) == reason


def test_a_filter_that_leaves_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="minTokens is more than maxTokens"):
        filters(minTokens=5, maxTokens=4)


FILTERED = {
    "filters": {"minTokens": 20, "maxTokens": 200, "deduplicate": "minhash", "keywords": {"deny": ["7 +"]}},
    "split": {"evaluation": 0.3},
}


@pytest.mark.parametrize("deduplicate", ["exact", "minhash"])
def test_training_leaves_out_what_the_inspection_does(
    deduplicate: str, request_for: Build, rows: Path, tmp_path: Path
) -> None:
    source = random.Random(1)
    lines = [
        {"prompt": f"{source.randrange(60)} + 1 = ", "completion": "long " * source.randrange(1, 90)}
        for _ in range(300)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *lines[:20]]) + "bad\n")
    wanted = {**FILTERED, "filters": {**FILTERED["filters"], "deduplicate": deduplicate}}
    request = request_for(dataset=wanted, training={"maxLength": 64})
    report = inspect(request, tmp_path / "report.json")
    facts = report.dataset
    assert facts.evaluation is not None
    assert facts.rows + facts.evaluation.rows + facts.filtered + facts.dropped == 321
    assert facts.dropped == 1
    assert len(facts.filtered_by_reason) == 4
    assert sum(facts.filtered_by_reason.values()) == facts.filtered

    attempt = AttemptFile(
        namespace="team", name="bot", uid="uid-1", attempt=1, spec=request.spec, inspection=report,
        plan=tiny_plan(max_length=64), checkpoint_uri="file:///unused",
    )  # fmt: skip
    (dataset,) = attempt.spec.all_datasets
    sides = [row.is_evaluated for row in encoded_rows(attempt, dataset, dataset.uri)]
    assert (sides.count(False), sides.count(True)) == (facts.rows, facts.evaluation.rows)


def test_filters_that_leave_no_row_end_the_inspection_with_their_reasons(request_for: Build, tmp_path: Path) -> None:
    request = request_for(dataset={"filters": {"minTokens": 1000}})
    with pytest.raises(TrainerFailure, match=r"leave out every usable row of .*filters.minTokens.* \(100\)"):
        inspect(request, tmp_path / "report.json")
