"""The score that a judge means: the scores weighted by their probabilities, where its endpoint tells them.

G-Eval (Liu et al., arXiv 2303.16634, section 2.3): whole numbers are coarse, and one of them is given to most texts; the expectation over the
probabilities of the score tokens tells texts apart that get the same number. Form of the probabilities: `logprobs` of OpenAI's chat completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from pydantic import BaseModel, ValidationError

SCORES: Final = ("1", "2", "3", "4", "5")


class _Candidate(BaseModel):
    token: str
    logprob: float


class _Token(_Candidate):
    top_logprobs: tuple[_Candidate, ...]


class _Probabilities(BaseModel):
    content: tuple[_Token, ...]


def expected_score(reply: str, at: int, logprobs: object) -> float | None:
    """Return the expectation of the score whose digit is at `at` in `reply`; None where the probabilities do not tell it.

    Args:
        reply: The text of the message.
        at: Where in it the score stands.
        logprobs: What the choice has under that name: for every token its log probability and those of the likeliest others.
    """
    try:
        tokens = _Probabilities.model_validate(logprobs).content
    except ValidationError:
        return None
    said = "".join(token.token for token in tokens)
    first = said.rfind(reply)  # what a model thinks may come before it, the token of its end behind it
    if first < 0:
        return None
    ends = accumulate(len(token.token) for token in tokens)
    chosen = next(token for token, end in zip(tokens, ends, strict=True) if end > first + at)
    if not chosen.top_logprobs or chosen.token.strip() not in SCORES:
        return None  # no other score is told, or the digit shares its token with other text
    known = {each.token: each.logprob for each in (*chosen.top_logprobs, chosen)}
    return _mean([(int(token), logprob) for token, logprob in known.items() if token.strip() in SCORES])


def _mean(scores: Sequence[tuple[int, float]]) -> float | None:
    finite = [(score, logprob) for score, logprob in scores if math.isfinite(logprob)]
    if not finite:
        return None
    most = max(logprob for _, logprob in finite)
    weights = [math.exp(logprob - most) for _, logprob in finite]
    return sum(score * weight for (score, _), weight in zip(finite, weights, strict=True)) / sum(weights)
