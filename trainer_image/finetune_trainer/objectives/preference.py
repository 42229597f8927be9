"""Direct preference optimisation (objective dpo): TRL's DPOTrainer on pairs that were encoded and cut before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute

from finetune_operator.api.compatibility import Method
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.encoding import answer_tokens
from finetune_trainer.objectives.recipe import EncodedRow, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

TOKENS: Final = pa.list_(pa.int32())
PAIR_SCHEMA: Final = pa.schema(
    [("prompt_ids", TOKENS), ("chosen_ids", TOKENS), ("rejected_ids", TOKENS), ("row", pa.int32())]
)
REWARD_MEASURES: Final = {
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "log_probability_chosen",
    "logps/rejected": "log_probability_rejected",
}


def pair_encoder(attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
    """Return what encodes a prompt and its two answers, each cut on the right; a prompt that leaves no room for them has nothing to learn from."""
    longest = attempt.plan.max_length

    def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
        (chosen, begin), (rejected, other) = (answer_tokens(tokenizer, text) for text in texts)
        begin = min(begin, other)
        if begin >= longest:
            return ()
        pair = {
            "prompt_ids": chosen[:begin],
            "chosen_ids": chosen[begin:longest],
            "rejected_ids": rejected[begin:longest],
        }
        return (pair,)

    return encode


def pair_lengths(rows: pa.Table) -> pa.ChunkedArray:
    """Return the tokens of the longer answer of each pair, with its prompt: what the other one is padded to."""
    prompt, chosen, rejected = (pyarrow.compute.list_value_length(rows.column(name)) for name in PAIR_SCHEMA.names[:3])
    return pyarrow.compute.add(prompt, pyarrow.compute.max_element_wise(chosen, rejected))


class _Preference(Recipe):
    schema = PAIR_SCHEMA
    measures = {**REWARD_MEASURES, "mean_token_accuracy": "token_accuracy", "entropy": "entropy"}  # noqa: RUF012 - never changed
    held_out = REWARD_MEASURES

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        return pair_encoder(attempt, tokenizer)

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        return pair_lengths(rows)

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from trl import DPOConfig

        settings = attempt.spec.dpo
        return DPOConfig(
            **training_arguments(attempt, staging, loads_once=loads_once),
            beta=settings.beta,
            loss_type=[settings.loss_type],
            max_length=attempt.plan.max_length,
            disable_dropout=False,  # of the base model alone, below: adapters have the dropout that the spec says
            remove_unused_columns=False,
        )

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.preference_trainer import PreferenceTrainer, frozen_copy, without_dropout

        model = without_dropout(parts.model)
        plan, method = context.attempt.plan, context.attempt.spec.tuning.method
        needs_copy = method is Method.FULL and not plan.precomputed_reference
        return PreferenceTrainer(
            context,
            **parts._replace(model=model).arguments(configuration),
            ref_model=frozen_copy(model) if needs_copy else None,
        )


RECIPE: Final = _Preference()
