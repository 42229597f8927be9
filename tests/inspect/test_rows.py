from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.layouts import LAYOUT_COLUMNS, OBJECTIVE_LAYOUTS, Layout
from finetune_operator.api.spec import Dataset
from finetune_trainer.file_formats.lines import read_lines
from finetune_trainer.rows import (
    Conversation,
    LayoutUnknown,
    Message,
    PromptCompletion,
    RowLayout,
    choose_layout,
    convert,
    read_rows,
)

SFT = OBJECTIVE_LAYOUTS["sft"]


def dataset(**fields: Any) -> Dataset:
    return Dataset.model_validate({"uri": "s3://b/x.jsonl", **fields})


def turns(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "text"} for role in roles]}


def reason(row: dict[str, object], layout: Layout = Layout.MESSAGES) -> str:
    result = convert(row, RowLayout.of(layout), has_chat_template=True)
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"messages": []}, Layout.MESSAGES),
        ({"prompt": "", "completion": ""}, Layout.PROMPT_COMPLETION),
        ({"instruction": "", "output": ""}, Layout.ALPACA),
        ({"conversations": []}, Layout.SHAREGPT),
    ],
)
def test_the_layout_is_known_by_the_columns(row: dict[str, object], layout: Layout) -> None:
    assert choose_layout(dataset(), SFT, [row]).layout is layout


def test_mapped_columns_decide_the_layout() -> None:
    layout = choose_layout(
        dataset(columns={"prompt": "question", "completion": "answer"}), SFT, [{"question": "", "answer": ""}]
    )
    assert layout.layout is Layout.PROMPT_COMPLETION
    assert layout.needed == ("question", "answer")


def test_the_layout_of_most_rows_wins() -> None:
    assert choose_layout(dataset(), SFT, [{"x": 1}, {"messages": []}, {"messages": []}]).layout is Layout.MESSAGES


def test_an_unknown_layout_names_the_columns_and_the_remedy() -> None:
    with pytest.raises(LayoutUnknown, match=r"columns answer, question, and .*set dataset\.columns"):
        choose_layout(dataset(), SFT, [{"question": "private words", "answer": "1"}])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "column messages is missing"),
        ({"messages": "text"}, "column messages is text, not a list"),
        ({"messages": []}, "column messages is empty"),
        ({"messages": ["x"]}, "message 1 is text, not an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has no role, or one that is not"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 (user) is null, not text"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 (user) is empty"),
        (turns("assistant"), "message 1 is assistant, expected system, developer or user"),
        (turns("user", "user", "assistant"), "message 2 is user, expected assistant"),
        (turns("user", "assistant", "system"), "message 3 is system, expected user"),
        (turns("system"), "no assistant turn"),
        (turns("user"), "no assistant turn"),
        (turns("user", "assistant", "user"), "the last turn is not the assistant's"),
    ],
)
def test_an_unusable_conversation_says_why(row: dict[str, object], words: str) -> None:
    assert words in reason(row)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x"}, "column completion is missing"),
        ({"prompt": "x", "completion": ""}, "column completion is empty"),
        ({"prompt": "", "completion": "x"}, "column prompt is empty"),
        ({"prompt": 3, "completion": "x"}, "column prompt is a number, not text"),
        ({"prompt": "x", "completion": [{"role": "assistant"}]}, "column completion is a list, not text"),
    ],
)
def test_an_unusable_prompt_or_completion_says_why(row: dict[str, object], words: str) -> None:
    assert words in reason(row, Layout.PROMPT_COMPLETION)


def test_alpaca_becomes_a_conversation_where_the_model_has_a_template() -> None:
    row: dict[str, object] = {"instruction": "Add", "input": "1, 2", "output": "3"}
    assert convert(row, RowLayout.of(Layout.ALPACA), has_chat_template=True) == Conversation(
        (Message("user", "Add\n\n1, 2"), Message("assistant", "3"))
    )


def test_alpaca_becomes_plain_text_where_the_model_has_no_template() -> None:
    row: dict[str, object] = {"instruction": "Add", "input": "", "output": "3"}
    assert convert(row, RowLayout.of(Layout.ALPACA), has_chat_template=False) == PromptCompletion(
        "### Instruction:\nAdd\n\n### Response:\n", "3"
    )


def test_rows_come_in_order_with_the_bad_ones_in_their_place() -> None:
    lines = [
        *read_lines("a", [b'{"prompt": "1", "completion": "x"}\nbad\n']),
        *read_lines("b", [b'{"prompt": "2", "completion": "y"}']),
    ]
    layout, rows = read_rows(lines, dataset(), SFT, has_chat_template=False)
    assert layout.layout is Layout.PROMPT_COMPLETION
    assert [(row.file, row.line, row.value is None) for row in rows] == [
        ("a", 1, False),
        ("a", 2, True),
        ("b", 1, False),
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_value_of_any_type_breaks_the_reader(value: object) -> None:
    for layout in Layout:
        columns = dict.fromkeys(LAYOUT_COLUMNS[layout].all, value)
        convert(columns, RowLayout.of(layout), has_chat_template=True)
