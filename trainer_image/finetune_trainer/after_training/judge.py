"""A language model judges answers: OpenAI's chat completions, a score from 1 to 5 for each.

The form is that of G-Eval (Liu et al., arXiv 2303.16634): task, criterion, steps, the texts, then the score alone. Its weighting by the probabilities
of the scores is left out, since many endpoints tell none. Nothing here ends a run: an answer without a usable score is counted as one.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx

from finetune_operator.api.evaluation import Judge
from finetune_operator.api.row_models import RowJudge

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


def score_in(reply: str) -> int | None:
    """Return the score in a judge's reply, None where it has none from 1 to 5, or several."""
    found = {int(score) for score in _SCORE.findall(reply.strip())}
    return found.pop() if len(found) == 1 else None


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

        def score(question: Question, answer: str) -> int | None:
            found = self._score(question, answer)
            count(1)
            return found

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="judge") as pool:
            scores = list(pool.map(score, questions, answers))
        usable = [score for score in scores if score is not None]
        mean = sum(usable) / len(usable) if usable else None
        return Judgement(mean, len(scores) - len(usable), self._problem)

    def _score(self, question: Question, answer: str) -> int | None:
        with self._lock:
            if self._failed_in_a_row >= FAILURES_IN_A_ROW:
                return None
        text = FORM.format(
            criteria=self._judge.criteria, question=question.asked, reference=question.reference, answer=answer
        )
        reply = self.ask(text)
        with self._lock:
            self._failed_in_a_row = 0 if reply is not None else self._failed_in_a_row + 1
        if reply is None:
            return None
        score = score_in(reply)
        if score is None:
            self._problem = "a reply had no score from 1 to 5"
        return score

    def ask(self, text: str) -> str | None:
        """Return the judge's reply; None after the last try."""
        body = {"model": self._judge.model, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        pause = FIRST_PAUSE_SECONDS
        for number in range(TRIES):
            wait = pause
            try:
                response = self._client.post(f"{self._judge.url.rstrip('/')}/chat/completions", json=body)
                if response.status_code == 200:
                    return str(response.json()["choices"][0]["message"]["content"])
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
