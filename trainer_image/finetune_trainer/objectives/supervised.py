"""Supervised fine-tuning (objective sft): TRL's SFTTrainer on rows that were encoded, cut and labelled before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.encoding import Encoder
from finetune_trainer.objectives.recipe import EncodedRow, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext


def supervised_arguments(attempt: AttemptFile) -> dict[str, Any]:
    """Return the arguments of TRL's SFTConfig that other trainers do not have."""
    return {
        "max_length": attempt.plan.max_length,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # rows come encoded, cut and labelled
    }


class Supervised(Recipe):
    """Rows with answers; also what trains whole texts."""

    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    measures = {"mean_token_accuracy": "token_accuracy", "entropy": "entropy"}  # noqa: RUF012 - never changed
    held_out = measures

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        """Return what makes tokens and labels of a row."""
        encoder = Encoder(
            tokenizer,
            completions_only=attempt.spec.training.loss_on == "completions",
            max_length=attempt.plan.max_length,
            truncation=attempt.spec.training.truncation,
        )

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            encoded = encoder.encode(value, texts[0].text)
            return ({"input_ids": encoded.tokens, "labels": encoded.labels},) if encoded.is_trainable else ()

        return encode

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        """Return TRL's SFTConfig."""
        from trl import SFTConfig

        arguments = training_arguments(attempt, staging, loads_once=loads_once)
        return SFTConfig(**arguments, **supervised_arguments(attempt))

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        """Return the trainer."""
        from finetune_trainer.objectives.supervised_trainer import SupervisedTrainer

        return SupervisedTrainer(
            context,
            **parts.arguments(configuration),
        )


RECIPE: Final = Supervised()
