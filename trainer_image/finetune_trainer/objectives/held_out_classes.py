"""How well a model gives classes to the evaluation rows: accuracy and F1 by scikit-learn, entities by seqeval, over all rows of all ranks at once.

Neither is a mean of batches: F1 of a class is that of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_operator.api.measures import ENTITY_MEASURES, names_entities
from finetune_trainer.collective import Collective

Classes = list[int]


def class_measures(right: Sequence[Classes], given: Sequence[Classes], names: Sequence[str]) -> dict[str, float]:
    """Return the measures of rows by name (finetune_operator.api.measures).

    Args:
        right: For each row the numbers of its classes: one, or one per word.
        given: Those that the model found likeliest.
        names: The names of the classes, in the order of their numbers.
    """
    from sklearn.metrics import accuracy_score, f1_score

    pairs = [pair for row in zip(right, given, strict=True) for pair in zip(*row, strict=True)]
    truth, found = zip(*pairs, strict=True)
    measures = {
        "accuracy": float(accuracy_score(truth, found)),
        "macro_f1": float(f1_score(truth, found, average="macro", labels=sorted(set(truth)), zero_division=0)),
    }
    if names_entities(names):
        from seqeval.metrics import f1_score as entity_f1
        from seqeval.metrics import precision_score, recall_score

        tags = [[[names[number] for number in row] for row in rows] for rows in (right, given)]
        for name, score in zip(ENTITY_MEASURES, (precision_score, recall_score, entity_f1), strict=True):
            measures[name] = float(score(*tags, zero_division=0))
    return measures


class HeldOutClasses:
    """What one evaluation measures: it keeps the classes of every row."""

    def __init__(self, names: Sequence[str], collective: Collective) -> None:
        self._names, self._collective = names, collective
        self._right: list[Classes] = []
        self._given: list[Classes] = []
        self._batch: tuple[list[Classes], list[Classes]] = ([], [])

    def see(self, logits: Any, labels: Any, ignored: int) -> None:
        """Hear of a batch: logits (rows, classes) or (rows, tokens, classes), labels (rows) or (rows, tokens)."""
        found = logits.argmax(-1).reshape(len(labels), -1)
        labels = labels.reshape(len(labels), -1)
        counted = labels != ignored
        self._batch = (
            [row[kept].tolist() for row, kept in zip(labels, counted, strict=True)],
            [row[kept].tolist() for row, kept in zip(found, counted, strict=True)],
        )

    def note(self, weight: int) -> None:
        """Count the batch that was seen."""
        if weight:
            self._right += self._batch[0]
            self._given += self._batch[1]

    def total(self) -> dict[str, float]:
        """Return the measures of all ranks' rows. Collective."""
        parts = self._collective.gather((self._right, self._given))
        right, given = ([row for part in parts for row in part[side]] for side in (0, 1))
        return class_measures(right, given, self._names)
