"""What the rows take on a pod's local disk once they are numbers: the Arrow files that its first rank writes and all its ranks map into memory.

Every pod has all rows. Their columns are those of trainer_image/finetune_trainer/objectives; tests/inspect/test_encoded_rows.py compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.inspection import DatasetFacts, InspectionReport
from finetune_operator.api.spec import FineTuneJobSpec

BYTES_PER_TOKEN: Final[Mapping[Objective, int]] = MappingProxyType(
    {
        # int32 of the token and int32 of its label.
        Objective.SFT: 8,
        Objective.PRETRAIN: 8,
        Objective.DISTILL: 8,
        Objective.TOKEN_CLASSIFICATION: 8,
        # int32 of the token and int8 of its segment.
        Objective.CLASSIFICATION: 5,
        Objective.RERANKER: 5,
        Objective.DPO: 4,
        Objective.ORPO: 4,
        Objective.KTO: 4,
        Objective.REWARD: 4,
        Objective.EMBEDDING: 4,
        # Prompts stay text, see TEXT_GROWTH.
        Objective.GRPO: 0,
        Objective.RLOO: 0,
    }
)
"""Of the columns that have one value per token."""
BYTES_PER_ROW: Final = 32
"""Offsets, the row's number or score, and a share of its batch's header: 8.4 (sft) to 16.7 (embedding) measured of 3000 rows of 1 to 400 tokens
(pyarrow 26); short files have more header per row."""
TEXT_GROWTH: Final = 3
"""What rows that stay text take at most, in bytes per byte of their files: as JSON, a letter of two bytes takes six, and compressed files of English
are about a third of their text. Other scripts in compressed files take more, which is not counted. JSON Lines in English: 1.0, measured."""
REFERENCE_BYTES: Final = 2 * 2 * 4
"""Of a row of objective dpo: the reference's float32 for both answers, in the checkpoint that was resumed from and in one more."""


def encoded_bytes(
    spec: FineTuneJobSpec, inspection: InspectionReport | None, *, max_length: int, packed: bool = False
) -> int:
    """Return the bytes that the encoded rows take at most on each pod's disk while they are made.

    0 where nothing was inspected, so that their tokens are not known, and for a script of the user's own, which reads its rows itself.

    Args:
        spec: The job's.
        inspection: What is known of the rows.
        max_length: Tokens at which a text is cut.
        packed: Whether rows are joined to sequences; both files are there until the second is whole.
    """
    if inspection is None or spec.trainer is not None:
        return 0
    facts, per_token = inspection.dataset, BYTES_PER_TOKEN[spec.objective]
    trained = per_token * _tokens(facts, max_length) + BYTES_PER_ROW * facts.rows
    if not per_token:
        weight = max(1.0, *(dataset.weight for dataset in spec.all_datasets))
        trained += int(TEXT_GROWTH * weight * sum(file.size for file in facts.files))
    rows = facts.rows
    evaluated = 0
    if facts.evaluation is not None:
        # Of these the longest alone is known.
        tokens = facts.evaluation.rows * max(1, len(facts.sides)) * min(facts.evaluation.longest, max_length)
        evaluated = per_token * tokens + BYTES_PER_ROW * facts.evaluation.rows
        rows += facts.evaluation.rows
    reference = REFERENCE_BYTES * rows if spec.objective is Objective.DPO else 0
    return trained * (2 if packed else 1) + evaluated + reference


def _tokens(facts: DatasetFacts, max_length: int) -> int:
    """Return the tokens of all texts at most; of pairs the prompt counts with each answer."""
    texts = facts.sides.values() or (facts.tokens,)
    return sum(min(text.total, max_length * sum(text.counts)) for text in texts)
