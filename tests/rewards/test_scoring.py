"""The rewards of a spec become the functions that TRL calls."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.api.rewards import VERIFIER_MEANINGS, Reward, Verifier, reward_names
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.rewards.scoring import reward_functions, text_of


def scores(reward: dict[str, Any], completions: list[Any], **columns: Any) -> list[float | None]:
    (function,) = reward_functions([Reward.model_validate(reward)])
    return function(prompts=["?"] * len(completions), completions=completions, completion_ids=[], **columns)


def test_every_verifier_gives_a_number_for_each_completion() -> None:
    schema = '{"type": "object", "required": ["a"]}'
    right, wrong = "#### 4", "none"
    cases: dict[Verifier, tuple[dict[str, Any], list[str], Any]] = {
        Verifier.EXACT_NUMBER: ({}, [right, wrong], ["4", "4"]),
        Verifier.NUMERIC_CLOSENESS: ({}, [right, wrong], [4, 4]),
        Verifier.ANSWER_FORMAT: ({}, [right, wrong], [None, None]),
        Verifier.REGEX: ({"pattern": r"^####"}, [right, wrong], [None, None]),
        Verifier.JSON_SCHEMA: ({"jsonSchema": schema}, ['{"a": 1}', "{}"], [None, None]),
        Verifier.UNIT_TESTS: ({}, ["x = 4", "x = 5"], ["assert x == 4", ["assert x == 4"]]),
    }
    assert cases.keys() == set(Verifier) == VERIFIER_MEANINGS.keys()
    for verifier, (settings, completions, answers) in cases.items():
        assert scores({"verifier": verifier, **settings}, completions, answer=answers) == [1.0, 0.0], verifier


def test_a_row_without_a_reference_gets_no_opinion_instead_of_a_zero() -> None:
    assert scores({"verifier": "exact-number"}, ["4", "4"], answer=["4", "unknown"]) == [1.0, None]
    assert scores({"verifier": "exact-number", "column": "gold"}, ["4"], answer=["4"]) == [None]


def test_completions_of_conversations_are_read_as_text() -> None:
    assert scores({"verifier": "exact-number"}, [[{"role": "assistant", "content": "4"}]], answer=["4"]) == [1.0]
    with pytest.raises(TypeError, match="text or a list of messages"):
        text_of(4)


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


def test_a_function_of_the_user_gets_prompts_completions_and_columns(
    user_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(prompts: list[str], completions: list[str], length: list[int], **_: Any) -> list[float]:
        return [float(len(text) <= limit) for text, limit in zip(completions, length, strict=True)]

    monkeypatch.setattr(user_module, "score", score, raising=False)
    assert scores({"function": "my_rewards:score"}, ["ab", "abc"], length=[2, 2]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "said"),
    [([1.0], "returned 1 values for 2"), ([1.0, float("nan")], "no finite number"), (["a", "b"], "str")],
)
def test_what_a_function_returns_is_checked(
    user_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, values: list[Any], said: str
) -> None:
    monkeypatch.setattr(user_module, "score", lambda **_: values, raising=False)
    with pytest.raises(TrainerFailure, match=said):
        scores({"function": "my_rewards:score"}, ["a", "b"])


@pytest.mark.parametrize("path", ["no_such_module:score", "math:no_such_function", "math:pi"])
def test_a_function_that_is_not_there_is_told_with_the_remedy(path: str) -> None:
    with pytest.raises(TrainerFailure, match=path):
        reward_functions([Reward(function=path)])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "name one of the three"),
        ({"verifier": "regex"}, "needs a pattern"),
        ({"verifier": "exact-number", "pattern": "a"}, "no other reward has one"),
        ({"verifier": "json-schema"}, "needs a schema"),
        ({"function": "score"}, "import path"),
    ],
)
def test_a_reward_that_says_too_little_or_too_much_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Reward.model_validate(spec)


@pytest.mark.parametrize(
    "spec", [{"verifier": "regex", "pattern": "("}, {"verifier": "json-schema", "jsonSchema": "{a"}]
)
def test_a_pattern_or_schema_that_cannot_be_read_ends_the_run_before_it_starts(spec: dict[str, Any]) -> None:
    with pytest.raises(TrainerFailure, match=r"rewards\."):
        reward_functions([Reward.model_validate(spec)])


def test_rewards_of_one_name_are_told_apart_by_number() -> None:
    rewards = [
        Reward.model_validate(each)
        for each in (
            {"verifier": "regex", "pattern": "a"},
            {"function": "m:score"},
            {"verifier": "regex", "pattern": "b"},
        )
    ]

    assert reward_names(rewards) == ("regex", "score", "regex-2")
    assert [call.__name__ for call in reward_functions(rewards[::2])] == ["regex", "regex-2"]


def test_a_function_that_raises_is_the_users_to_mend_and_its_text_is_not_told() -> None:
    (call,) = reward_functions([Reward.model_validate({"function": "json:loads"})])
    with pytest.raises(TrainerFailure, match=r"loads raised TypeError; mend it"):
        call(prompts=[""], completions=["secret"])
