"""What answers are worth beside those of the rows: pure functions of texts, by the libraries that papers are compared with.

Exact match and F1 are SQuAD's (Rajpurkar et al., arXiv 1606.05250): texts are compared in lower case, without punctuation, articles and surplus
spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from finetune_operator.api.evaluation import Metric

Scores = dict[str, float]
_ROUGE: Final = ("rouge1", "rouge2", "rougeL")
_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return the share of answers that are their reference."""
    equal = [_words(answer) == _words(reference) for answer, reference in zip(answers, references, strict=True)]
    return {"exact_match": sum(equal) / len(equal)}


def word_f1(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return the mean F1 of the words that answer and reference have in common."""
    return {"f1": _mean([_f1(_words(a), _words(r)) for a, r in zip(answers, references, strict=True)])}


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    return 2 * (Counter(answer) & Counter(reference)).total() / (len(answer) + len(reference))


def rouge(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return the mean F measures of ROUGE-1, ROUGE-2 and ROUGE-L of stemmed words."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(_ROUGE, use_stemmer=True)
    found = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return {name: _mean([each[name].fmeasure for each in found]) for name in _ROUGE}


def bleu(answers: Sequence[str], *references: Sequence[str]) -> Scores:
    """Return BLEU of all answers together, 0 to 100, against one or several references of each."""
    import sacrebleu

    return {"bleu": float(sacrebleu.corpus_bleu(list(answers), [list(each) for each in references]).score)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


OF_ANSWERS: Final[Mapping[Metric, Callable[[Sequence[str], Sequence[str]], Scores]]] = MappingProxyType(
    {Metric.EXACT_MATCH: exact_match, Metric.F1: word_f1, Metric.ROUGE: rouge, Metric.BLEU: bleu}
)
"""The metrics that compare answers."""
