"""What each layout makes of a row, and why it cannot make anything of another one."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS, Layout
from finetune_operator.api.spec import Dataset
from finetune_trainer.rows import (
    Conversation,
    JudgedCompletion,
    LabelledText,
    LabelledWords,
    LayoutUnknown,
    Message,
    PositivePair,
    Preference,
    Prompt,
    RawText,
    RowLayout,
    RowValue,
    ScoredPair,
    choose_layout,
    convert,
)

ASKED, GOOD, BAD = Message("user", "2+2?"), Message("assistant", "4"), Message("assistant", "5")
CALL = {"name": "add", "arguments": {"a": 2}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(layout: Layout, row: dict[str, object], **names: str) -> RowValue | str:
    return convert(row, RowLayout.of(layout, names), has_chat_template=True)


def said(*turns: Message) -> list[dict[str, object]]:
    return [turn.to_dict() for turn in turns]


def test_sharegpt_turns_become_messages_with_their_system_column() -> None:
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    assert read(Layout.SHAREGPT, {"conversations": turns, "system": "Be brief.", "id": 1}) == Conversation(
        (Message("system", "Be brief."), ASKED, GOOD)
    )


def test_sharegpt_function_calls_and_observations_become_tool_calls_and_tool_turns() -> None:
    turns = [
        {"from": "human", "value": "2+2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4"},
    ]
    calling = Message("assistant", "", {"tool_calls": [{"type": "function", "function": CALL}]})
    assert read(Layout.SHAREGPT, {"conversations": turns, "tools": "[]"}) == Conversation(
        (ASKED, calling, Message("tool", "4"), GOOD)
    )


def test_arguments_of_tool_calls_given_as_json_text_become_objects_and_nulls_are_left_out() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
    messages = [
        {"role": "user", "content": "2+2?", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "assistant", "content": "4", "tool_calls": []},
    ]
    value = read(Layout.MESSAGES, {"messages": messages, "tools": [TOOL]})
    calling = Message("assistant", "", {"tool_calls": [{**calls[0], "function": CALL}]})
    assert value == Conversation((ASKED, calling, Message("tool", "4", {"tool_call_id": "c1"}), GOOD), (TOOL,))


@pytest.mark.parametrize("prompt", [{"prompt": said(ASKED)}, {"prompt": "2+2?"}, {}], ids=["turns", "text", "none"])
def test_two_answers_as_turns_have_the_same_value_however_their_prompt_is_given(prompt: dict[str, object]) -> None:
    before = [] if isinstance(prompt.get("prompt"), list) else [ASKED]
    row = {**prompt, "chosen": said(*before, GOOD), "rejected": said(*before, BAD)}
    assert read(Layout.PREFERENCE, row) == Preference((ASKED,), (GOOD,), (BAD,))


def test_two_answers_as_text_have_a_prompt_of_their_own_or_the_text_that_both_begin_with() -> None:
    expected = Preference("The sky is", " blue.", " green.")
    assert read(Layout.PREFERENCE, {"chosen": "The sky is blue.", "rejected": "The sky is green."}) == expected
    own = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert read(Layout.PREFERENCE, own) == expected


def test_answers_that_part_after_an_earlier_answer_have_the_turns_before_it_as_their_prompt() -> None:
    other = Message("user", "Really?")
    row: dict[str, object] = {"chosen": said(ASKED, GOOD, other, GOOD), "rejected": said(ASKED, BAD, other, GOOD)}
    assert read(Layout.PREFERENCE, row) == Preference((ASKED,), (GOOD, other, GOOD), (BAD, other, GOOD))


def test_a_judged_completion_takes_true_and_one() -> None:
    for label in (True, 1, "1", "True"):
        row: dict[str, object] = {"prompt": "2+2=", "completion": "4", "label": label}
        assert read(Layout.KTO, row) == JudgedCompletion("2+2=", "4", True)
    turns: dict[str, object] = {"prompt": said(ASKED), "completion": said(BAD), "label": False}
    assert read(Layout.KTO, turns) == JudgedCompletion((ASKED,), (BAD,), False)


def test_a_prompt_keeps_the_rows_further_columns_for_the_rewards() -> None:
    row: dict[str, object] = {"question": "2+2?", "answer": "4", "level": 1}
    assert read(Layout.PROMPT, row, prompt="question") == Prompt("2+2?", {"answer": "4", "level": 1})
    turns: dict[str, object] = {"prompt": said(ASKED), "answer": "4"}
    assert read(Layout.PROMPT, turns) == Prompt((ASKED,), {"answer": "4"})


@pytest.mark.parametrize(
    ("layout", "row", "value"),
    [
        (Layout.TEXT, {"text": "A book."}, RawText("A book.")),
        (Layout.CLASSIFICATION, {"text": "Good!", "label": " pos "}, LabelledText("Good!", None, "pos")),
        (Layout.CLASSIFICATION, {"text": "a", "text_pair": "b", "label": 0}, LabelledText("a", "b", "0")),
        (
            Layout.TOKEN_CLASSIFICATION,
            {"tokens": ["Ada", "sleeps"], "tags": ["B-PER", "O"]},
            LabelledWords(("Ada", "sleeps"), ("B-PER", "O")),
        ),
        (Layout.SCORED_PAIR, {"sentence1": "a", "sentence2": "b", "score": 4}, ScoredPair("a", "b", 4.0)),
        (Layout.SCORED_PAIR, {"sentence1": "a", "sentence2": "b", "score": "0.5"}, ScoredPair("a", "b", 0.5)),
        (Layout.PAIR, {"anchor": "a", "positive": "b"}, PositivePair("a", "b")),
        (Layout.TRIPLET, {"anchor": "a", "positive": "b", "negative": "c"}, PositivePair("a", "b", "c")),
    ],
)
def test_a_row_without_turns_becomes_its_value(layout: Layout, row: dict[str, object], value: RowValue) -> None:
    assert read(layout, row) == value


@pytest.mark.parametrize(
    ("layout", "row", "words"),
    [
        (Layout.SHAREGPT, {"conversations": [{"from": "robot", "value": "x"}]}, "message 1 has no from"),
        (
            Layout.SHAREGPT,
            {"conversations": [{"from": "human", "value": 3}]},
            "the value of message 1 (user) is a number",
        ),
        (Layout.MESSAGES, {"messages": said(ASKED, GOOD), "tools": "x"}, "column tools is text, not a list of tools"),
        (
            Layout.MESSAGES,
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            "message 1 (user) has tool_calls",
        ),
        (
            Layout.MESSAGES,
            {"messages": [*said(ASKED), {"role": "assistant", "tool_calls": [{"arguments": {}}]}]},
            "tool_calls of message 2 has an entry without the function's name",
        ),
        (
            Layout.MESSAGES,
            {"messages": [*said(ASKED), {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "tool_calls of message 2 has arguments that are no object",
        ),
        (
            Layout.MESSAGES,
            {
                "messages": [
                    *said(ASKED),
                    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": "\\ud800"}'}]},
                ]
            },
            "tool_calls of message 2 has arguments that are no object",
        ),
        (
            Layout.MESSAGES,
            {"messages": [*said(ASKED), {"role": "assistant", "tool_calls": [CALL]}, *said(ASKED)]},
            "message 3 is user, expected tool",
        ),
        (Layout.PREFERENCE, {"chosen": "a", "rejected": []}, "column chosen is text and column rejected is a list"),
        (Layout.PREFERENCE, {"prompt": "x", "chosen": "a", "rejected": "a"}, "columns chosen and rejected are equal"),
        (Layout.PREFERENCE, {"prompt": "x", "chosen": "a", "rejected": " "}, "column rejected is empty"),
        (
            Layout.PREFERENCE,
            {"chosen": said(ASKED, GOOD), "rejected": said(Message("user", "3+3?"), GOOD)},
            "do not begin with the same prompt",
        ),
        (
            Layout.PREFERENCE,
            {"prompt": said(ASKED), "chosen": said(ASKED), "rejected": said(BAD)},
            "column chosen: roles out of order: message 1 is user, expected assistant",
        ),
        (Layout.KTO, {"prompt": "x", "completion": "y", "label": "yes"}, "column label is text, not true or false"),
        (Layout.PROMPT, {"prompt": said(ASKED, GOOD)}, "the last turn of column prompt is assistant"),
        (Layout.TEXT, {"text": " "}, "column text is empty"),
        (Layout.CLASSIFICATION, {"text": "a", "label": 0.5}, "column label is a number, not the name"),
        (Layout.CLASSIFICATION, {"text": "a", "label": "x" * 101}, "column label is longer than 100 characters"),
        (
            Layout.TOKEN_CLASSIFICATION,
            {"tokens": ["a", "b"], "tags": ["O"]},
            "column tokens has 2 entries and column tags has 1",
        ),
        (Layout.TOKEN_CLASSIFICATION, {"tokens": ["a", ""], "tags": ["O", "O"]}, "entry 2 of column tokens is empty"),
        (Layout.SCORED_PAIR, {"sentence1": "a", "sentence2": "b", "score": float("nan")}, "column score is not finite"),
        (Layout.SCORED_PAIR, {"sentence1": "a", "sentence2": "b", "score": True}, "column score is a boolean"),
        (Layout.TRIPLET, {"anchor": "a", "positive": "b", "negative": ""}, "column negative is empty"),
    ],
)
def test_an_unusable_row_says_why(layout: Layout, row: dict[str, Any], words: str) -> None:
    reason = read(layout, row)
    assert isinstance(reason, str)
    assert words in reason


@pytest.mark.parametrize(
    ("objective", "row", "layout"),
    [
        ("dpo", {"prompt": "", "chosen": "", "rejected": ""}, Layout.PREFERENCE),
        ("kto", {"prompt": "", "completion": "", "label": 1}, Layout.KTO),
        ("grpo", {"prompt": "", "completion": ""}, Layout.PROMPT),
        ("embedding", {"anchor": "", "positive": "", "negative": ""}, Layout.TRIPLET),
        ("embedding", {"anchor": "", "positive": ""}, Layout.PAIR),
        ("reranker", {"sentence1": "", "sentence2": "", "score": 1}, Layout.SCORED_PAIR),
    ],
)
def test_the_objective_decides_which_layouts_are_looked_for(
    objective: str, row: dict[str, object], layout: Layout
) -> None:
    assert choose_layout(Dataset(uri="s3://b/x"), OBJECTIVE_LAYOUTS[objective], [row]).layout is layout


def test_columns_that_no_layout_of_the_objective_has_are_refused_with_those_that_it_has() -> None:
    dataset = Dataset.model_validate({"uri": "s3://b/x", "columns": {"messages": "talk"}})
    with pytest.raises(LayoutUnknown, match=r"names messages.*learns from format kto \(prompt, completion, label\)"):
        choose_layout(dataset, OBJECTIVE_LAYOUTS["kto"], [])
