"""Vectors of texts (objective embedding): a bi-encoder, trained by the losses of sentence-transformers and published for it.

Its trainer (6.2) wraps the model in modules of its own, which the checkpoints of this project and their resumes do not know. So the model is
transformers' own here, and sentence-transformers gives losses and pooling, and loads what is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute

from finetune_operator.api.embedding import Pooling
from finetune_operator.api.layouts import Layout
from finetune_operator.api.model_types import ENCODERS
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.objectives.labelled import cut_to
from finetune_trainer.objectives.preference import TOKENS
from finetune_trainer.objectives.recipe import EncodedRow, ModelHead, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue, ScoredPair
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

TEXT_COLUMNS: Final = ("first_ids", "second_ids", "third_ids")
"""The texts of a row in order: a scored pair's two, or anchor, positive and, where the rows have one, negative."""
POOLING_NAMES: Final[Mapping[Pooling, str]] = MappingProxyType(
    {Pooling.MEAN: "mean", Pooling.CLS: "cls", Pooling.LAST_TOKEN: "lasttoken"}
)
"""sentence-transformers' words (6.2)."""
_POOLING_KEYS: Final[Mapping[Pooling, str]] = MappingProxyType(
    {
        Pooling.MEAN: "pooling_mode_mean_tokens",
        Pooling.CLS: "pooling_mode_cls_token",
        Pooling.LAST_TOKEN: "pooling_mode_lasttoken",
    }
)
"""Keys of 1_Pooling/config.json that every version of sentence-transformers reads, and servers of embeddings too (TEI, vLLM); 6.2 writes others."""


def pooling_of(attempt: AttemptFile) -> Pooling:
    """Return how the vector of a text is made of those of its tokens."""
    wanted, facts = attempt.spec.embedding.pooling, attempt.inspection.model
    if wanted != "auto":
        return Pooling(wanted)
    if facts.pooling is not None:
        return Pooling(facts.pooling)
    return Pooling.MEAN if facts.config.get("model_type") in ENCODERS else Pooling.LAST_TOKEN


def compares_rows(attempt: AttemptFile) -> bool:
    """Whether each row is compared with the others of its batch, as rows without a score are."""
    return attempt.inspection.dataset.format != Layout.SCORED_PAIR


def largest_score(attempt: AttemptFile) -> float:
    """Return what scores are divided by to be cosines: the largest of the rows, or 1 where none is larger."""
    scores = attempt.inspection.dataset.scores
    return 1.0 if scores is None else max(1.0, abs(scores.minimum), abs(scores.maximum))


def sentence_transformers_files(attempt: AttemptFile, hidden: int) -> dict[str, Any]:
    """Return what makes a model's folder one of sentence-transformers: name of a file → its content as JSON."""
    pooling = pooling_of(attempt)
    modules = ("Transformer", ""), ("Pooling", "1_Pooling")
    return {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(modules)
        ],
        "sentence_bert_config.json": {"max_seq_length": attempt.plan.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            **{key: kind is pooling for kind, key in _POOLING_KEYS.items()},
        },
    }


class _Embedding(Recipe):
    schema = pa.schema([*((name, TOKENS) for name in TEXT_COLUMNS), ("score", pa.float32())])
    measures: Mapping[str, str] = MappingProxyType({})
    held_out = MappingProxyType({name: name for name in ("spearman", "retrieval_accuracy")})
    scores_untrained = True

    def head(self, attempt: AttemptFile) -> ModelHead:
        return ModelHead("AutoModel", "FEATURE_EXTRACTION")

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        cutting = cut_to(tokenizer.tokenizer, attempt.plan.max_length, attempt.spec.training.truncation)
        largest = largest_score(attempt)

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            row: dict[str, Any] = {
                name: cutting.encode(text.text).ids for name, text in zip(TEXT_COLUMNS, texts, strict=False)
            }
            return ({**row, "score": value.score / largest if isinstance(value, ScoredPair) else None},)

        return encode

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        return pyarrow.compute.max_element_wise(
            *(pyarrow.compute.list_value_length(rows.column(name)) for name in TEXT_COLUMNS)
        )

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from transformers import TrainingArguments

        arguments = training_arguments(attempt, staging, loads_once=loads_once)
        if compares_rows(attempt):
            # A process gets its whole share of the batch at once, and embedding_trainer.py divides it: every row is compared with all others.
            arguments["per_device_train_batch_size"] *= arguments["gradient_accumulation_steps"]
            arguments["gradient_accumulation_steps"] = 1
        return TrainingArguments(**arguments, remove_unused_columns=False)

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.embedding_trainer import EmbeddingTrainer, TextCollator, without_pooler

        model, tokenizer = without_pooler(parts.model), parts.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if parts.peft_config is not None:
            from peft import get_peft_model

            parts.peft_config.exclude_modules = ["pooler.dense"]  # no vector is made of what it gives
            model = get_peft_model(model, parts.peft_config)
        return EmbeddingTrainer(
            context,
            model=model,
            args=configuration,
            train_dataset=parts.rows,
            processing_class=tokenizer,
            data_collator=TextCollator(tokenizer),
            callbacks=parts.callbacks,
        )

    def finish(self, attempt: AttemptFile, folder: Path, dtype: str) -> None:
        from transformers import AutoConfig

        from finetune_trainer.objectives.embedding_check import check_vectors

        hidden = AutoConfig.from_pretrained(folder, local_files_only=True).hidden_size
        for name, content in sentence_transformers_files(attempt, hidden).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        check_vectors(attempt, folder, dtype)


RECIPE: Final = _Embedding()
