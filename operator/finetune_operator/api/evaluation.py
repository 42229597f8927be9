"""Rows that are kept from training, and when the loss is measured on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from pydantic import Field

from finetune_operator.api.locations import Location, readable
from finetune_operator.api.model import Rule, SpecModel

EVALUATIONS: Final = 10
"""How often a run evaluates where the spec does not say."""


class Split(SpecModel):
    """A share of the rows that is kept from training."""

    evaluation: float = Field(
        gt=0,
        lt=1,
        description="The share of rows (0 to 1) that is evaluated and never trained. Equal rows stay together.",
    )
    seed: int = Field(42, ge=0, le=2147483647, description="Decides which rows these are. Default 42.")


class EvaluationSource(SpecModel):
    """Rows of their own to evaluate on."""

    uri: Location = Field(description="Where they are, in the layout of the data set and in any of its file formats.")

    rules: ClassVar[tuple[Rule, ...]] = (
        readable("dataset.evaluation.uri", "s3://bucket/rows.jsonl or hf://datasets/org/name/rows.jsonl"),
    )


class EarlyStopping(SpecModel):
    """When a training that no longer gets better ends before its last step."""

    metric: Literal["eval_loss"] = Field(
        "eval_loss", description="What has to get better: eval_loss, lower. Default eval_loss."
    )
    patience: int = Field(
        ge=1, le=1000, description="After how many evaluations in a row without a better one the training ends."
    )

    def is_over(self, step: int, best_step: int, interval: int) -> bool:
        """Whether the training ends after the evaluation of `step`, when the best one was that of `best_step`."""
        return (step - best_step) // interval >= self.patience


class Evaluation(SpecModel):
    """How the model is judged."""

    every: int | None = Field(
        None,
        ge=1,
        description="After how many optimizer steps the loss on the evaluation rows is measured; after the last step always. Default: ten times in "
        "a run.",
    )


@dataclass(frozen=True)
class EvaluationTimes:
    """After which steps of a run it evaluates."""

    every: int | None
    total_steps: int

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next."""
        return self.every or max(1, -(-self.total_steps // EVALUATIONS))

    def is_due(self, step: int) -> bool:
        """Whether the evaluation rows are looked at after this step."""
        return step > 0 and (step % self.interval == 0 or step >= self.total_steps)
