"""The judge: an endpoint that speaks OpenAI's chat completions, with every way in which it can fail to give a score."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from finetune_operator.api.evaluation import Judge
from finetune_trainer.after_training.judge import FAILURES_IN_A_ROW, TRIES, JudgeClient, Judgement, score_in
from finetune_trainer.after_training.rows import Question

Reply = tuple[int, bytes, dict[str, str]]


class Endpoint:
    """A server that answers by a list, its last entry for ever; it keeps what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), list[tuple[str, str | None, dict[str, Any]]]()
        self.url = ""

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def said(text: str) -> Reply:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), {}


@contextmanager
def serving(*replies: Reply) -> Iterator[Endpoint]:
    endpoint = Endpoint(*replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.asked.append((self.path, self.headers.get("Authorization"), body))
            code, content, headers = endpoint.next()
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that its end waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
