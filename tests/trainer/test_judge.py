"""The judge: an endpoint that speaks OpenAI's chat completions, with every way in which it can fail to give a score."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chat_endpoint import Endpoint, said, serving

from finetune_operator.api.evaluation import Judge
from finetune_trainer.after_training.judge import FAILURES_IN_A_ROW, TRIES, JudgeClient, Judgement, score_in
from finetune_trainer.after_training.rows import Question


def judged(endpoint: Endpoint, answers: list[str], pauses: list[float] | None = None, **judge: Any) -> Judgement:
    questions = [Question((1,), "4", "user: What is 2 + 2?")] * len(answers)
    waited: list[float] = [] if pauses is None else pauses
    with JudgeClient(
        Judge(url=endpoint.url, model="big", timeout_seconds=judge.pop("seconds", 5), **judge),
        "key",
        pause=waited.append,
    ) as client:
        return client.judge(questions, answers)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 4", 4),
        ("4", 4),
        ("**Score:** 5/5", 5),
        ("It is right.\nscore: 2.0", 2),
        ("Score: 6", None),
        ("Score: 3.5", None),
        ("Score: 45", None),
        ("Score: 1 or Score: 2", None),
        ("I would say it is good", None),
        ("", None),
    ],
)
def test_a_score_is_one_whole_number_from_1_to_5(reply: str, score: int | None) -> None:
    assert score_in(reply) == score


def test_the_mean_of_usable_scores_is_told_with_the_number_of_the_others() -> None:
    with serving(said("Score: 5"), said("no idea"), said("Score: 2"), said("Score: 2")) as endpoint:
        found = judged(endpoint, ["four", "five", "six", "4"], criteria="It is a number.")
    assert found == Judgement(3.0, 1, "a reply had no score from 1 to 5")
    path, key, body = endpoint.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer key")
    assert (body["model"], body["temperature"]) == ("big", 0)
    text = body["messages"][0]["content"]
    assert all(part in text for part in ("It is a number.", "What is 2 + 2?", "Reference answer:\n4\n"))


def test_a_busy_endpoint_is_asked_again_when_it_says() -> None:
    pauses: list[float] = []
    with serving((429, b"", {"Retry-After": "7"}), (503, b"", {}), said("Score: 3")) as endpoint:
        found = judged(endpoint, ["four"], pauses)
    assert found.score == 3
    assert pauses == [7.0, 2.0]


def test_an_endpoint_that_refuses_is_not_asked_for_ever() -> None:
    pauses: list[float] = []
    with serving((401, b"", {})) as endpoint:
        found = judged(endpoint, ["four"] * 40, pauses)
    assert found == Judgement(None, 40, "HTTP 401")
    assert pauses == []
    assert FAILURES_IN_A_ROW <= len(endpoint.asked) < 20


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"choices": []}'])
def test_what_is_no_chat_completion_is_counted(content: bytes) -> None:
    with serving((200, content, {})) as endpoint:
        assert judged(endpoint, ["four"]) == Judgement(None, 1, "a reply was no chat completion")


def test_an_endpoint_that_is_not_there_costs_its_tries_and_no_more() -> None:
    with serving(said("Score: 3")) as endpoint:
        pass
    pauses: list[float] = []
    found = judged(endpoint, ["four"], pauses)
    assert (found.score, found.unusable, found.problem) == (None, 1, "ConnectError")
    assert len(pauses) == TRIES - 1
