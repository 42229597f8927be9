"""Reward models (objective reward): TRL's RewardTrainer on pairs that were encoded and cut before; the model ends in one number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.objectives.preference import TOKENS, pair_encoder
from finetune_trainer.objectives.recipe import EncodedRow, ModelHead, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

SCORE: Final = ModelHead("AutoModelForSequenceClassification", "SEQ_CLS", {"num_labels": 1})
"""One number at the last token of a sequence that is no padding."""


class _Reward(Recipe):
    schema = pa.schema([("chosen_ids", TOKENS), ("rejected_ids", TOKENS)])
    measures = {"margin": "reward_margin", "accuracy": "reward_accuracy", "mean_reward": "reward_mean"}  # noqa: RUF012 - never changed
    held_out = measures

    def head(self, attempt: AttemptFile) -> ModelHead:
        return SCORE

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        encode_pair = pair_encoder(attempt, tokenizer)

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            return [
                {side: pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")}
                for pair in encode_pair(value, texts)
            ]

        return encode

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        sides = (pyarrow.compute.list_value_length(rows.column(name)) for name in self.schema.names)
        return pyarrow.compute.max_element_wise(*sides)

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from trl import RewardConfig

        return RewardConfig(
            **training_arguments(attempt, staging, loads_once=loads_once),
            max_length=None,  # rows come cut
            center_rewards_coefficient=attempt.spec.reward.centering or None,
            disable_dropout=False,
        )

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.preference_trainer import RewardModelTrainer, without_dropout

        return RewardModelTrainer(
            context,
            **parts._replace(model=without_dropout(parts.model)).arguments(configuration),
        )


RECIPE: Final = _Reward()
