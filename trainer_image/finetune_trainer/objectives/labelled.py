"""What classification and token classification share: a head with an output per class of the inspected rows, and transformers' Trainer.

Classes have the numbers of their order in the inspection (by value where all names are whole numbers, else by name), so that every rank, every
attempt and the published model's id2label agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.objectives.recipe import EncodedRow, ModelHead, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

SEGMENTS = "token_type_ids"


def class_names(attempt: AttemptFile) -> tuple[str, ...]:
    """Return the classes in the order of their numbers."""
    return tuple(attempt.inspection.dataset.labels)


def cut_to(tokenizer: Tokenizer, length: int, side: str) -> Tokenizer:
    """Return a copy that cuts texts, of two texts always the longer one, and keeps the special tokens (as transformers' longest_first)."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(length, direction=side)
    return copy


class LabelledRecipe(Recipe):
    """One objective whose model gives classes."""

    auto_class: str
    task_type: str
    measures = {"batch_accuracy": "batch_accuracy"}  # noqa: RUF012 - never changed
    held_out = {name: name for name in ("accuracy", "macro_f1")}  # noqa: RUF012 - never changed

    def head(self, attempt: AttemptFile) -> ModelHead:
        """Return the classification head. It is new, unless the model has one with as many outputs."""
        names = class_names(attempt)
        labels = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
        }
        return ModelHead(self.auto_class, self.task_type, labels)

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        """Return what encodes the rows: token ids, segments of pairs, and the numbers of the classes."""
        numbers = {name: number for number, name in enumerate(class_names(attempt))}
        cutting = cut_to(tokenizer.tokenizer, attempt.plan.max_length, attempt.spec.training.truncation)

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            return self.encode(cutting, numbers, value, texts[0])

        return encode

    def encode(
        self, tokenizer: Tokenizer, numbers: dict[str, int], value: RowValue, text: Text
    ) -> Sequence[EncodedRow]:
        """Return a row in numbers, or nothing where no class is left."""
        raise NotImplementedError

    def collator(self, tokenizer: Any) -> Any:
        """Return what pads encoded rows to a batch."""
        raise NotImplementedError

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        """Return transformers' TrainingArguments."""
        from transformers import TrainingArguments

        return TrainingArguments(**training_arguments(attempt, staging, loads_once=loads_once))

    @property
    def trainer_class(self) -> Any:
        """Return the class of the trainer."""
        from finetune_trainer.objectives.labelled_trainer import LabelledTrainer

        return LabelledTrainer

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        """Return the trainer; the adapters are made here, since transformers' Trainer makes none."""
        model, tokenizer = parts.model, parts.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # decoders find the last token of a row by it
        rows, evaluated = parts.rows, context.evaluation_rows
        if SEGMENTS in rows.column_names and not has_segments(model):
            rows = rows.remove_columns(SEGMENTS)
            context = replace(context, evaluation_rows=evaluated and evaluated.remove_columns(SEGMENTS))
        if parts.peft_config is not None:
            from peft import get_peft_model

            parts.peft_config.exclude_modules = whole_heads(model)
            model = get_peft_model(model, parts.peft_config)
        return self.trainer_class(
            context,
            model=model,
            args=configuration,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=self.collator(tokenizer),
            callbacks=parts.callbacks,
        )


def whole_heads(model: Any) -> list[str]:
    """Return the parts that PEFT trains whole beside adapters, which therefore get none.

    PEFT 0.21 knows them by the ends of their names when it wraps them, but by their whole names when it leaves them out of all-linear: DistilBERT's
    pre_classifier became an adapter first, which then could not be wrapped (TypeError).
    """
    return [name for name, _ in model.named_children() if name.endswith(("classifier", "score"))]


def has_segments(model: Any) -> bool:
    """Whether the model tells the first text of a pair from the second by token types (BERT does; RoBERTa has one type, DistilBERT none)."""
    takes = SEGMENTS in inspect.signature(model.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 0) > 1
