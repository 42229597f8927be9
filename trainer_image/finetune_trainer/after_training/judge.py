"""A language model judges answers: OpenAI's chat completions, a score from 1 to 5 for each.

The form is that of G-Eval (Liu et al., arXiv 2303.16634): task, criterion, steps, the texts, then the score alone,
weighted by the probabilities of the scores where the endpoint tells them (score_weights.py). Nothing here ends a run: an answer without a usable
score is counted as one.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from finetune_operator.api.evaluators import Judge
from finetune_operator.api.row_models import RowJudge
from finetune_trainer.after_training.score_weights import expected_score

if TYPE_CHECKING:
    from finetune_trainer.after_training.rows import Question

TRIES: Final = 4
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
AT_ONCE: Final = 8
"""Requests on their way together: the pod's GPUs wait for them."""
FAILURES_IN_A_ROW: Final = 5
"""So many answers without a reply, each after all tries, and the endpoint is not asked again: 200 rows would wait for hours."""
_BUSY: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSALS: Final = frozenset({400, 403, 422})
"""How parameters are refused: most often with 400, those of OpenAI's reasoning models with 403, what a strict server does not know with 422."""
_WITH_PROBABILITIES: Final = {"logprobs": True, "top_logprobs": 20}
"""Twenty is the most that OpenAI's API allows: the five scores, with and without a space, have room beside other words."""
_SCORE: Final = re.compile(r"(?:score\W{0,8}|^\W*)([1-5])(?:\.0+)?(?:\s*/\s*5)?(?![\d.]*\d)", re.IGNORECASE)
FORM: Final = """You will be given a question, a reference answer and an answer that somebody gave. Rate that answer on one criterion.

Criterion (1 to 5): {criteria}

Steps:
1. Read the question and the reference answer, and note what matters in them.
2. Compare the given answer with them by the criterion alone. Its length and style count only where the criterion names them.
3. Give a score from 1 (not at all) to 5 (wholly).

Question:
{question}

Reference answer:
{reference}

Given answer:
{answer}

Reply with the score alone, in this form:
Score: <1 to 5>"""


class Judgement(NamedTuple):
    """What a judge said of all answers."""

    score: float | None
    """The mean of the usable scores; None without any."""
    unusable: int
    """Answers without one."""
    problem: str
    """The last reason why, without content."""
    weighted: int = 0
    """Of the usable scores those that are weighted by their probabilities; the others are the number that the judge wrote."""


class Reply(NamedTuple):
    """What a judge wrote, and the probabilities of its tokens as they came."""

    text: str
    logprobs: object = None


class _Score(NamedTuple):
    value: float
    weighted: bool


def score_in(reply: str) -> int | None:
    """Return the score in a judge's reply, None where it has none from 1 to 5, or several."""
    found = _score_at(reply.strip())
    return None if found is None else found[0]


def _score_at(reply: str) -> tuple[int, int] | None:
    """Return the score in a reply and where it first stands."""
    found = list(_SCORE.finditer(reply))
    return (int(found[0][1]), found[0].start(1)) if len({match[1] for match in found}) == 1 else None


class JudgeClient:
    """Asks one endpoint; a context manager."""

    def __init__(
        self,
        judge: Judge | RowJudge,
        key: str | None,
        *,
        pause: Callable[[float], object] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._judge, self._pause = judge, pause
        self._client = httpx.Client(timeout=judge.timeout_seconds, headers=headers, transport=transport)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._problem = ""
        self._wants_probabilities = True

    def __enter__(self) -> JudgeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def problem(self) -> str:
        """The last reason why there was no score, without content."""
        return self._problem

    def judge(
        self, questions: Sequence[Question], answers: Sequence[str], *, count: Callable[[int], None] = lambda rows: None
    ) -> Judgement:
        """Return what the judge says of the answers. `count` hears of every one."""
        self._failed_in_a_row, self._problem = 0, ""

        def score(question: Question, answer: str) -> _Score | None:
            found = self._score(question, answer)
            count(1)
            return found

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="judge") as pool:
            scores = list(pool.map(score, questions, answers))
        usable = [score for score in scores if score is not None]
        mean = sum(score.value for score in usable) / len(usable) if usable else None
        weighted = sum(score.weighted for score in usable)
        return Judgement(mean, len(scores) - len(usable), self._problem, weighted)

    def _score(self, question: Question, answer: str) -> _Score | None:
        with self._lock:
            if self._failed_in_a_row >= FAILURES_IN_A_ROW:
                return None
        text = FORM.format(
            criteria=self._judge.criteria, question=question.asked, reference=question.reference, answer=answer
        )
        reply = self._reply(text, _WITH_PROBABILITIES if self._wants_probabilities else {})
        with self._lock:
            self._failed_in_a_row = 0 if reply is not None else self._failed_in_a_row + 1
        if reply is None:
            return None
        written = reply.text.strip()
        found = _score_at(written)
        if found is None:
            self._problem = "a reply had no score from 1 to 5"
            return None
        number, at = found
        expected = expected_score(written, at, reply.logprobs)
        return _Score(number, weighted=False) if expected is None else _Score(expected, weighted=True)

    def ask(self, text: str) -> str | None:
        """Return the judge's reply; None after the last try."""
        reply = self._reply(text, {})
        return None if reply is None else reply.text

    def _reply(self, text: str, more: Mapping[str, Any]) -> Reply | None:
        """Return the reply to a request with `more` in it, or without: an endpoint that answers only then is never sent it again."""
        body: dict[str, Any] = {
            "model": self._judge.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        pause, is_refused = FIRST_PAUSE_SECONDS, False
        for number in range(TRIES):
            wait = pause
            try:
                response = self._post({**body, **more})
                if more and response.status_code in _REFUSALS:
                    response, more, is_refused = self._post(body), {}, True
                if response.status_code == 200:
                    if is_refused:
                        self._wants_probabilities = False
                    choice = response.json()["choices"][0]
                    return Reply(str(choice["message"]["content"]), choice.get("logprobs"))
                self._problem = f"HTTP {response.status_code}"
                if response.status_code not in _BUSY:
                    return None
                asked = response.headers.get("Retry-After", "")
                wait = float(asked) if asked.isdigit() else pause
            except httpx.TransportError as error:
                self._problem = type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError):
                self._problem = "a reply was no chat completion"
                return None
            if number + 1 < TRIES:
                self._pause(min(wait, LONGEST_PAUSE_SECONDS))
                pause *= 2
        return None

    def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        return self._client.post(f"{self._judge.url.rstrip('/')}/chat/completions", json=body)
