"""Which rows are kept from training: a partition that inspect and train make alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.evaluation import Split
from finetune_operator.api.inspection import InspectionReport, InspectionRequest
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.command import inspect
from finetune_trainer.row_selection import is_evaluated
from finetune_trainer.rows import PromptCompletion

Build = Callable[..., InspectionRequest]


@given(
    texts=st.lists(st.text(max_size=5), min_size=1),
    share=st.floats(min_value=0.01, max_value=0.99),
    smaller=st.floats(min_value=0.1, max_value=0.9),
    seed=st.integers(min_value=0, max_value=2**31 - 1),
)
def test_a_row_is_on_one_side_whatever_is_around_it(texts: list[str], share: float, smaller: float, seed: int) -> None:
    split = Split(evaluation=share, seed=seed)
    sides = {text: is_evaluated(PromptCompletion(text, ""), split) for text in texts}
    assert sides == {text: is_evaluated(PromptCompletion(text, ""), split) for text in reversed(texts)}
    fewer = Split(evaluation=share * smaller, seed=seed)
    assert all(sides[text] for text in texts if is_evaluated(PromptCompletion(text, ""), fewer))


def test_the_share_is_about_what_was_asked_for_and_the_seed_decides_which() -> None:
    rows = [PromptCompletion(str(number), "x") for number in range(4000)]
    one, other = ({row for row in rows if is_evaluated(row, Split(evaluation=0.1, seed=seed))} for seed in (1, 2))
    assert len(one) == pytest.approx(400, rel=0.2)
    assert len(one & other) == pytest.approx(40, rel=0.6)


def report(request: InspectionRequest, tmp_path: Path) -> InspectionReport:
    return inspect(request, tmp_path / "report.json")


def test_the_report_counts_rows_to_train_and_rows_to_evaluate(request_for: Build, rows: Path, tmp_path: Path) -> None:
    rows.write_text(rows.read_text() + "bad\n")
    facts = report(request_for(dataset={"split": {"evaluation": 0.2}}), tmp_path).dataset
    assert facts.evaluation is not None
    assert facts.rows + facts.evaluation.rows == 100
    assert 10 <= facts.evaluation.rows <= 30
    assert sum(facts.tokens.counts) == facts.rows
    assert facts.dropped == 1


def test_rows_of_their_own_are_read_in_their_own_format(request_for: Build, rows: Path, tmp_path: Path) -> None:
    own = tmp_path / "evaluation.csv"
    own.write_text("prompt,completion\n1 + 1 = ,2\n,2\n" + "".join(f"{n} + 2 = ,{n + 2}\n" for n in range(40)))
    facts = report(request_for(dataset={"evaluation": {"uri": f"file://{own}"}}), tmp_path).dataset
    assert facts.rows == 100
    assert facts.evaluation is not None
    assert (facts.evaluation.rows, facts.evaluation.dropped) == (41, 1)
    assert [file.uri for file in facts.evaluation.files] == [f"file://{own}"]


@pytest.mark.parametrize(
    ("share", "count", "words"),
    [(0.001, 3, "takes none of the 3 usable rows"), (0.999, 3, "all usable rows")],
)
def test_a_split_that_leaves_one_side_empty_says_so(
    share: float, count: int, words: str, request_for: Build, rows: Path, tmp_path: Path
) -> None:
    rows.write_text("".join(json.dumps({"prompt": f"{n}", "completion": "x"}) + "\n" for n in range(count)))
    with pytest.raises(TrainerFailure, match=words):
        report(request_for(dataset={"split": {"evaluation": share}}), tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": {"split": {"evaluation": 0.1}, "evaluation": {"uri": "s3://b/x"}}}, "exclude each other"),
        ({"evaluation": {"every": 5}}, "there are no rows to evaluate on"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(fields: dict[str, Any], words: str, request_for: Build) -> None:
    with pytest.raises(ValueError, match=words):
        request_for(**fields)
