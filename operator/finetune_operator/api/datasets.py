"""Several data sets in one job: each is read by its own settings, and weights say how often its rows are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.inputs import Dataset
from finetune_operator.api.model import Rule

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneJobSpec

MOST_DATASETS: Final = 8
"""The API server has to bound what the rules of all of them cost."""
EVALUATES_CEL: Final = (
    "(has(self.dataset) && (has(self.dataset.split) || has(self.dataset.evaluation)) || "
    "has(self.datasets) && self.datasets.exists(d, has(d.split) || has(d.evaluation)))"
)
"""`FineTuneJobSpec.evaluates` for the API server."""


class WeightedDataset(Dataset):
    """One of several data sets."""

    weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="How often each row is learned in an epoch: 2 is twice, 0.3 is three rows in ten, 1.5 is once, and half of the rows twice. "
        "Which rows these are follows from their content and training.seed. Rows to evaluate on are not weighted. Default 1.",
    )

    @classmethod
    def of(cls, dataset: Dataset) -> WeightedDataset:
        """Return a job's only data set as one of several: its rows are learned once."""
        return cls(**{name: getattr(dataset, name) for name in Dataset.model_fields})


def formats_allowed(allowed: str) -> str:
    """Return in CEL that every format is one of `allowed`, a list in CEL without its brackets."""
    return (
        f"(!has(self.dataset) || self.dataset.format in [{allowed}]) && "
        f"(!has(self.datasets) || self.datasets.all(d, d.format in [{allowed}]))"
    )


def _split_alike(spec: FineTuneJobSpec) -> bool:
    return len({None if each.split is None else each.split.model_dump_json() for each in spec.datasets or ()}) <= 1


DATASET_RULES: Final = (
    Rule(
        cel="has(self.dataset) != has(self.datasets)",
        message="dataset: name one data set in dataset, or several in datasets, one of the two",
        holds=lambda s: (s.dataset is None) != (s.datasets is None),
    ),
    Rule(
        cel="!has(self.datasets) || self.datasets.all(d, has(d.split) == has(self.datasets[0].split) && "
        "(!has(d.split) || d.split == self.datasets[0].split))",
        message="datasets: give all of them the same split, or none, so that equal rows of two data sets are not trained here and evaluated there; "
        "or name rows to evaluate on in evaluation.uri of one of them",
        holds=_split_alike,
    ),
    Rule(
        cel="self.objective != 'embedding' || !has(self.datasets) || self.datasets.all(d, d.weight <= 1.0 || d.format == 'scored-pair')",
        message="datasets: a weight above 1 makes equal rows, which objective: embedding takes for each other's wrong answers where they meet in a "
        "batch; lower all weights to 1 and below, or set format: scored-pair where rows have scores",
        holds=lambda s: (
            s.objective is not Objective.EMBEDDING
            or all(d.weight <= 1 or d.format == "scored-pair" for d in s.datasets or ())
        ),
    ),
)
