"""How well the numbers that a model gives to pairs of texts fit the scores of the evaluation rows, over all rows of all ranks at once."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.collective import Collective


def rank_correlation(scores: Sequence[float], given: Sequence[float]) -> dict[str, float]:
    """Return Spearman's correlation by its name; nothing where one side has equal numbers alone, which correlate with nothing."""
    from scipy.stats import spearmanr

    if len(set(scores)) < 2 or len(set(given)) < 2:
        return {}
    return {"spearman": float(spearmanr(scores, given).statistic)}


class HeldOutScores:
    """What one evaluation of a model measures that gives each pair a probability."""

    def __init__(self, collective: Collective) -> None:
        self._collective = collective
        self._scores: list[float] = []
        self._given: list[float] = []
        self._batch: tuple[list[float], list[float]] = ([], [])

    def see(self, given: list[float], scores: list[float]) -> None:
        """Hear of a batch: the probabilities, and the scores of the rows (0 to 1)."""
        self._batch = scores, given

    def note(self, weight: int) -> None:
        """Count the batch that was seen."""
        if weight:
            self._scores += self._batch[0]
            self._given += self._batch[1]

    def total(self) -> dict[str, float]:
        """Return the measures of all ranks' rows. Collective."""
        parts = self._collective.gather((self._scores, self._given))
        scores, given = ([item for part in parts for item in part[side]] for side in (0, 1))
        agreed = sum((score >= 0.5) == (probability >= 0.5) for score, probability in zip(scores, given, strict=True))
        return {"pair_accuracy": agreed / len(scores), **rank_correlation(scores, given)}
