"""What `evaluation.require` may name of the last step's evaluation: measures of the objective, where rows are kept from training."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.datasets import EVALUATES_CEL
from finetune_operator.api.evaluation import HELD_OUT_FIGURES
from finetune_operator.api.layouts import listed
from finetune_operator.api.measures import HELD_OUT_MEASURES
from finetune_operator.api.model import Rule

_ANY_HELD_OUT: Final = " || ".join(f"has(self.evaluation.require.{figure})" for figure in HELD_OUT_FIGURES)


def _of_objective(figure: str) -> Rule:
    measured = tuple(objective for objective, names in HELD_OUT_MEASURES.items() if figure in names)
    allowed = ", ".join(f"'{objective}'" for objective in measured)
    return Rule(
        cel=f"!has(self.evaluation.require) || !has(self.evaluation.require.{figure}) || self.objective in [{allowed}]",
        message=f"evaluation.require.{figure}: it is measured of objective {listed(measured)} alone; remove it, or require what "
        "docs/explanation/evaluation.md names for this objective",
        holds=lambda s: (
            s.evaluation.require is None or figure not in s.evaluation.require.given or s.objective in measured
        ),
    )


REQUIREMENT_RULES: Final = (
    *map(_of_objective, HELD_OUT_FIGURES),
    Rule(
        cel=f"!has(self.evaluation.require) || !({_ANY_HELD_OUT}) || {EVALUATES_CEL}",
        message="evaluation.require: there are no rows to evaluate on; set dataset.split or dataset.evaluation, or remove it",
        holds=lambda s: (
            s.evaluation.require is None or s.evaluates or not set(s.evaluation.require.given) & set(HELD_OUT_FIGURES)
        ),
    ),
    Rule(
        cel="!has(self.trainer) || !has(self.evaluation.require)",
        message="evaluation.require: it judges what the operator's trainer makes and measures; remove it, or remove trainer",
        holds=lambda s: s.trainer is None or s.evaluation.require is None,
    ),
)
