"""Answers that are wanted or not (objective kto): TRL's KTOTrainer on rows that were encoded and cut before."""

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
from finetune_trainer.objectives.preference import REWARD_MEASURES, TOKENS
from finetune_trainer.objectives.recipe import EncodedRow, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import JudgedCompletion, RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext


class _Judged(Recipe):
    schema = pa.schema([("prompt_ids", TOKENS), ("completion_ids", TOKENS), ("label", pa.bool_())])
    measures = {  # noqa: RUF012 - never changed
        **{
            key: name for key, name in REWARD_MEASURES.items() if name != "reward_accuracy"
        },  # no pairs, none to compare
        "kl": "kl",
        "entropy": "entropy",
    }

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        longest = attempt.plan.max_length

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            if not isinstance(value, JudgedCompletion):
                raise TypeError(f"a {type(value).__name__} says not whether its answer is wanted")
            tokens, begin = answer_tokens(tokenizer, texts[0])
            if begin >= longest:
                return ()
            split = {"prompt_ids": tokens[:begin], "completion_ids": tokens[begin:longest]}
            return ({**split, "label": value.is_desirable},)

        return encode

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        prompt, completion = (pyarrow.compute.list_value_length(rows.column(name)) for name in self.schema.names[:2])
        return pyarrow.compute.add(prompt, completion)

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from trl import KTOConfig

        settings = attempt.spec.kto
        return KTOConfig(
            **training_arguments(attempt, staging, loads_once=loads_once),
            beta=settings.beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
            max_length=attempt.plan.max_length,
            disable_dropout=False,
            remove_unused_columns=False,
        )

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.preference_trainer import JudgedTrainer, frozen_copy, without_dropout

        model = without_dropout(parts.model)
        return JudgedTrainer(
            context,
            **parts._replace(model=model).arguments(configuration),
            ref_model=frozen_copy(model) if context.attempt.spec.tuning.method is Method.FULL else None,
        )


RECIPE: Final = _Judged()
