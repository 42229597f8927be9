"""The generated pages and the tables say the same."""

from pathlib import Path

import pytest

from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.conditions import REASONS_OF
from finetune_operator.jobs.objectives_page import objectives_page
from finetune_operator.jobs.reference import (
    CONDITION_MEANINGS,
    GENERATED,
    STATE_MEANINGS,
    conditions_page,
    exit_codes_page,
    main,
    methods_page,
    strategies_page,
)

PAGES = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conditions.md", conditions_page()),
        ("exit-codes.md", exit_codes_page()),
        ("methods.md", methods_page()),
        ("strategies.md", strategies_page()),
        ("objectives.md", objectives_page(GENERATED)),
    ],
)
def test_the_page_in_docs_is_what_the_tables_say(name: str, text: str) -> None:
    assert (PAGES / name).read_text() == text, "run: python -m finetune_operator.jobs.reference docs/reference"


def test_every_condition_type_and_state_has_a_meaning() -> None:
    assert set(CONDITION_MEANINGS) == set(ConditionType) == set(REASONS_OF)
    assert set(STATE_MEANINGS) == set(JobState)


def test_every_reason_is_on_the_page() -> None:
    page = conditions_page()
    assert [reason for reason in Reason if f"| `{reason}` |" not in page] == []


def test_the_pages_are_written_into_the_folder_that_is_named(tmp_path: Path) -> None:
    assert main([str(tmp_path / "reference")]) == 0
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == [
        "conditions.md",
        "exit-codes.md",
        "methods.md",
        "objectives.md",
        "strategies.md",
    ]


def test_without_a_folder_the_usage_is_told() -> None:
    assert main([]) == 2
