"""What an epoch is made of: rows, or sequences that rows are packed into; and whether packing is worth it.

Steps, duration and the length that memory is planned for all follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from finetune_operator.api.compatibility import LEARN_TEXTS, Objective
from finetune_operator.api.inspection import DatasetFacts, InspectionReport, PackedRows, TokenHistogram
from finetune_operator.api.methods import VIRTUAL_TOKEN_METHODS
from finetune_operator.api.model_types import PACKING_ISOLATED, PACKING_LEAKS
from finetune_operator.api.packing import packed_rows
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.lengths import usual_longest

USUAL_MICRO_BATCH: Final = 8
"""Whose padding is compared with: the split is searched afterwards, and most plans have micro-batches of 4 to 16. Judged."""
LEAST_SAVING: Final = 0.2
"""Of the tokens that a step computes. Less is not worth batches whose number of rows varies. Judged."""
LEAST_STEPS: Final = 100
"""With fewer updates of larger batches a short job would learn less, and has little time to save. Judged."""


@dataclass(frozen=True)
class SequencesOfEpoch:
    """The sequences that training takes its batches from."""

    rows: int
    """Usable rows; 0 when the data was not inspected and nobody said."""
    count: int
    """Sequences of an epoch; 0 when it is not known."""
    longest: int
    """Tokens that memory is planned for."""
    packed: bool = False
    reasons: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def sequences_of(
    spec: FineTuneJobSpec, model_type: str, inspection: InspectionReport | None, rows: int, *, cut: int
) -> SequencesOfEpoch | PlanError:
    """Return what an epoch is made of.

    Args:
        spec: What the user wants.
        model_type: Which family the model is of: some mix rows that are packed.
        inspection: What is known of the rows.
        rows: Those that are known without an inspection, 0 where they are not.
        cut: Tokens of the longest sequence; longer rows are cut.
    """
    wanted = spec.training.packing
    if wanted == "best-fit" and model_type in PACKING_LEAKS:
        return PlanError(
            reason=Reason.UNSUPPORTED_COMBINATION,
            message=f"training.packing: best-fit with a model of type {model_type}: the rows of a packed sequence would see each other, "
            "since transformers makes no block-diagonal mask for it; set training.packing: none",
        )
    if inspection is None:
        if wanted != "best-fit":
            return SequencesOfEpoch(rows, rows, cut)
        known = "training.packing: how many sequences the rows make is known after the inspection"
        return SequencesOfEpoch(rows, 0, cut, packed=True, assumptions=(known,))
    facts = inspection.dataset
    evaluated = min(cut, facts.evaluation.longest) if facts.evaluation else 0
    longest = max(min(cut, facts.tokens.maximum), evaluated) if facts.tokens.maximum else cut
    if (online := spec.training.online) is not None:
        # Rows are prompts, and sequences their answers; all of them may be as long as an answer can be.
        return SequencesOfEpoch(
            facts.rows, facts.rows * online.generations, min(cut, facts.tokens.maximum + online.max_completion_length)
        )
    alone = SequencesOfEpoch(facts.rows, facts.rows, longest)
    is_alone = wanted == "none" or spec.training.group_by_length or spec.tuning.method in VIRTUAL_TOKEN_METHODS
    if is_alone or facts.rows == 0 or spec.objective not in LEARN_TEXTS:
        return alone
    made = facts.packed or _at_most(facts.tokens, cut)
    packed = SequencesOfEpoch(facts.rows, made.sequences, max(made.longest, evaluated), packed=True)
    if spec.objective is Objective.PRETRAIN and wanted == "auto":
        wanted = "best-fit" if model_type in PACKING_ISOLATED else "auto"
    saved = _saved(spec, facts, made)
    summary = (
        f"packing: {facts.rows:,} rows in {made.sequences:,} sequences of up to {made.longest:,} tokens, "
        f"{abs(saved):.0%} {'fewer' if saved >= 0 else 'more'} tokens to compute"
    )
    obstacle = None if wanted == "best-fit" else _obstacle(spec, model_type, made, saved)
    if obstacle is not None:
        return SequencesOfEpoch(alone.rows, alone.count, alone.longest, reasons=(f"packing: off, {obstacle}",))
    return SequencesOfEpoch(packed.rows, packed.count, packed.longest, packed=True, reasons=(summary,))


def total_steps(spec: FineTuneJobSpec, sequences: int) -> int:
    """Return the optimizer steps of the whole job: training.maxSteps, or epochs × sequences / global batch, rounded up; 0 when they are unknown."""
    if spec.training.max_steps is not None:
        return spec.training.max_steps
    # Rounded first: 0.1 × 30 is 3.0000000000000004 in floating point, and must not become an extra step.
    return ceil(round(spec.training.epochs_or_default * sequences / spec.training.global_batch_size, 9))


def _obstacle(spec: FineTuneJobSpec, model_type: str, made: PackedRows, saved: float) -> str | None:
    """Return why `auto` does not pack, None where it does."""
    if saved < LEAST_SAVING:
        return f"it would save {max(saved, 0.0):.0%} of the tokens to compute, less than {LEAST_SAVING:.0%}"
    if model_type not in PACKING_ISOLATED:
        return f"models of type {model_type} are not known to keep packed rows apart"
    if spec.training.max_steps is not None:
        return "training.maxSteps fixes the number of steps, which would only become longer"
    steps = total_steps(spec, made.sequences)
    if steps < LEAST_STEPS:
        return f"it would leave {steps} steps of {spec.training.global_batch_size} sequences, fewer than {LEAST_STEPS}"
    return None


def _saved(spec: FineTuneJobSpec, facts: DatasetFacts, made: PackedRows) -> float:
    """Return the share of tokens, padding included, that packed sequences save in an epoch; negative where they cost more."""
    batch = min(USUAL_MICRO_BATCH, spec.training.global_batch_size)
    return 1 - made.sequences * made.longest / (
        facts.rows * usual_longest(facts.tokens, batch, spec.training.max_length)
    )


def _at_most(tokens: TokenHistogram, cut: int) -> PackedRows:
    """Return about what packing makes of the histogram's rows: each as long as its bucket allows."""
    longest = {
        min(high - 1, tokens.maximum): count for high, count in zip(tokens.edges[1:], tokens.counts, strict=False)
    }
    return packed_rows({length: count for length, count in longest.items() if count}, cut)
