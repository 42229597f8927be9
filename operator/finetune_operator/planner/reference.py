"""When the reference of preference training is asked about all rows beforehand instead of in every step.

A step that asks it passes its batch through the model once more. Asked beforehand, each row passes once, however often it is seen, and a model that
is trained itself needs no frozen copy of 4 bytes per parameter beside it.
"""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import SHARDED_STRATEGIES, Method, Objective, Strategy
from finetune_operator.api.spec import FineTuneJobSpec

WITH_REFERENCE: Final = frozenset({Objective.DPO, Objective.KTO})
"""Objectives whose loss compares with the model as it was before."""
FIXED_ANSWERS: Final = frozenset({Objective.DPO})
"""Those of them that ask about the data set's own answers alone. KTO's mismatched ones are new in each batch."""


def precomputes_reference(spec: FineTuneJobSpec, strategy: Strategy, passes: float | None) -> bool:
    """Return whether the reference is asked beforehand.

    Args:
        spec: The job's.
        strategy: Sharded ones have no copy of the whole model: TRL 1.16 would read it on every rank once more.
        passes: How often training sees each row; None where the rows are not known, then it is taken to be once.
    """
    if spec.objective not in FIXED_ANSWERS:
        return False
    seen = 1.0 if passes is None else passes
    if spec.tuning.method is Method.FULL:
        return strategy in SHARDED_STRATEGIES or seen >= 1.0
    return seen > 1.0


def keeps_whole_reference(spec: FineTuneJobSpec) -> bool:
    """Return whether every process would hold a frozen copy of the whole model to compare generated answers with, sharded or not."""
    return spec.training.kl_weight > 0 and spec.tuning.method is Method.FULL


def reference_reason(spec: FineTuneJobSpec, strategy: Strategy, passes: float | None) -> str | None:
    """Return how the reference is asked and why, in words; None where the objective has none."""
    if spec.objective not in WITH_REFERENCE and not spec.training.kl_weight:
        return None
    whole = spec.tuning.method is Method.FULL
    often = "an unknown number of times" if passes is None else f"{passes:.3g} times"
    if precomputes_reference(spec, strategy, passes):
        saved = ", and no frozen copy of the model is kept" if whole else ""
        return f"reference: asked about all rows before the first step, since each is seen {often}{saved}"
    how = "a frozen copy of the model" if whole else "the model without its adapters"
    why = f", since each row is seen {often}" if spec.objective in FIXED_ANSWERS else ""
    return f"reference: {how}, asked in every step{why}"
