"""The judge: an endpoint that speaks OpenAI's chat completions, with every way in which it can fail to give a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chat_endpoint import Endpoint, said, serving

from finetune_operator.api.evaluators import Judge
from finetune_trainer.after_training.judge import AT_ONCE, FAILURES_IN_A_ROW, TRIES, JudgeClient, Judgement, score_in
from finetune_trainer.after_training.rows import Question
from finetune_trainer.after_training.score_weights import expected_score


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


def told(*tokens: str, score: int = -1, **probabilities: float) -> dict[str, Any]:
    """The log probabilities of a reply; at token `score` those of `_4` ("4") and the like, everywhere else of the token alone."""

    def entry(number: int, token: str) -> dict[str, Any]:
        chosen = {token: 1.0} if number != score % len(tokens) else {k.strip("_"): p for k, p in probabilities.items()}
        likeliest = [{"token": each, "logprob": math.log(p), "bytes": None} for each, p in chosen.items()]
        return {"token": token, "logprob": math.log(chosen.get(token, 1e-9)), "top_logprobs": likeliest}

    return {"content": [entry(number, token) for number, token in enumerate(tokens)]}


def test_a_score_is_weighted_by_the_probabilities_of_the_five_scores() -> None:
    first = said("Score: 4", told("Score", ":", " ", "4", _4=0.6, _5=0.2, _3=0.1, The=0.1))
    with serving(first, said("Score: 2")) as endpoint:
        found = judged(endpoint, ["four", "two"])
    # (4 · 0.6 + 5 · 0.2 + 3 · 0.1) / 0.9, and 2 of the reply without probabilities.
    assert found.score == pytest.approx((3.7 / 0.9 + 2) / 2)
    assert (found.unusable, found.weighted) == (0, 1)
    assert all((body["logprobs"], body["top_logprobs"]) == (True, 20) for _, _, body in endpoint.asked)


@pytest.mark.parametrize("code", [400, 403, 422])
def test_an_endpoint_that_refuses_probabilities_is_asked_without_them_from_then_on(code: int) -> None:
    pauses: list[float] = []
    with serving(said("Score: 3"), refuses={"logprobs": code}) as endpoint:
        found = judged(endpoint, ["four"] * 40, pauses, seconds=60)
    assert found == Judgement(3.0, 0, "")
    assert pauses == []
    refused = sum("logprobs" in body for _, _, body in endpoint.asked)
    # At most the requests that were on their way together; every answer is judged by one without.
    assert 1 <= refused <= AT_ONCE
    assert len(endpoint.asked) == 40 + refused


def test_an_answer_that_is_refused_either_way_does_not_end_the_weighting_of_others() -> None:
    weighted = said("4", told("4", _4=0.5, _5=0.5))

    def by(prompt: str) -> tuple[int, bytes, dict[str, str]]:
        return (400, b"", {}) if "too long" in prompt else weighted

    with serving(by=by) as endpoint:
        found = judged(endpoint, ["four", "too long", *["four"] * 20], seconds=60)
    assert (found.score, found.unusable, found.weighted, found.problem) == (pytest.approx(4.5), 1, 21, "HTTP 400")


@pytest.mark.parametrize(
    ("logprobs", "score"),
    [
        (told("Score", ":", " 4", **{" 4": 0.5, "4": 0.25, " 2": 0.25}), 3.5),  # with a space and without
        # Thoughts before it, an end behind.
        (told("hm", "…", "Score", ":", " ", "4", "<|eot|>", score=5, _4=0.5, _1=0.5), 2.5),
        (told("Score", ":", " ", "3", _4=0.5, _3=0.5), None),  # the tokens of another text
        (told("Score", ": 4", **{": 4": 0.5, ": 5": 0.5}), None),
        ({"content": [{"token": "Score: 4", "logprob": 0.0}]}, None),
        ({"content": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_probabilities_count_where_the_token_of_the_score_is_found(logprobs: object, score: float | None) -> None:
    assert expected_score("Score: 4", 7, logprobs) == (None if score is None else pytest.approx(score))


@given(
    st.dictionaries(st.sampled_from("12345"), st.floats(-9999, 0), min_size=1),
    st.dictionaries(st.text("abc", min_size=1), st.floats(-9999, 0)),
    st.floats(-50, 0),
)
def test_a_weighted_score_lies_among_those_that_are_told_whatever_else_is_likely(
    scores: Mapping[str, float], others: Mapping[str, float], shift: float
) -> None:
    def weighted(shift: float) -> float | None:
        likeliest = [{"token": token, "logprob": value + shift} for token, value in {**scores, **others}.items()]
        written = max(scores, key=lambda each: scores[each])
        entry = {"token": written, "logprob": scores[written] + shift, "top_logprobs": likeliest}
        return expected_score(written, 0, {"content": [entry]})

    found = weighted(0)
    assert found is not None
    assert int(min(scores)) - 1e-9 <= found <= int(max(scores)) + 1e-9
    assert weighted(shift) == pytest.approx(found, abs=1e-6)
