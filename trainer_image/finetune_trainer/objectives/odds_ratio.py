"""Odds ratio preference optimisation (objective orpo): preferences without a reference, learned together with the chosen answers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.objectives.preference import PAIR_SCHEMA, REWARD_MEASURES, pair_encoder, pair_lengths
from finetune_trainer.objectives.recipe import Parts, Recipe, RowEncoder
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext


class _OddsRatio(Recipe):
    schema = PAIR_SCHEMA
    measures = {**REWARD_MEASURES, "nll_loss": "likelihood_loss", "log_odds_chosen": "log_odds_ratio"}  # noqa: RUF012 - never changed
    held_out = {**REWARD_MEASURES, "log_odds_chosen": "log_odds_ratio"}  # noqa: RUF012 - never changed

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        return pair_encoder(attempt, tokenizer)

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        return pair_lengths(rows)

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from trl import DPOConfig

        return DPOConfig(
            **training_arguments(attempt, staging, loads_once=loads_once),
            beta=attempt.spec.orpo.beta,
            max_length=attempt.plan.max_length,
            disable_dropout=False,
            remove_unused_columns=False,
        )

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.odds_ratio_trainer import OddsRatioTrainer
        from finetune_trainer.objectives.preference_trainer import without_dropout

        return OddsRatioTrainer(
            context,
            **parts._replace(model=without_dropout(parts.model)).arguments(configuration),
        )


RECIPE: Final = _OddsRatio()
