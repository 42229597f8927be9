"""Scores of pairs of texts that are read together (objective reranker): a cross-encoder with one output, published for sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from tokenizers import Tokenizer

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.objectives.embedding import largest_score
from finetune_trainer.objectives.labelled import SEGMENTS, LabelledRecipe, cut_to
from finetune_trainer.objectives.recipe import EncodedRow, ModelHead, RowEncoder
from finetune_trainer.objectives.reward import SCORE
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue, ScoredPair
from finetune_trainer.tokenizer_files import TokenizerFiles


class _Reranker(LabelledRecipe):
    auto_class = SCORE.auto_class
    task_type = SCORE.task_type
    measures = {}  # noqa: RUF012 - never changed
    held_out = {name: name for name in ("spearman", "pair_accuracy")}  # noqa: RUF012 - never changed
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), (SEGMENTS, pa.list_(pa.int8())), ("labels", pa.float32())])

    def head(self, attempt: AttemptFile) -> ModelHead:
        return SCORE

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        cutting: Tokenizer = cut_to(tokenizer.tokenizer, attempt.plan.max_length, attempt.spec.training.truncation)
        largest = largest_score(attempt)

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            assert isinstance(value, ScoredPair)  # noqa: S101 - the objective's layouts make no other
            encoding = cutting.encode(texts[0].text, texts[0].pair)
            return ({"input_ids": encoding.ids, SEGMENTS: encoding.type_ids, "labels": value.score / largest},)

        return encode

    def collator(self, tokenizer: Any) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    @property
    def trainer_class(self) -> Any:
        from finetune_trainer.objectives.reranker_trainer import RerankerTrainer

        return RerankerTrainer

    def finish(self, attempt: AttemptFile, folder: Path, dtype: str) -> None:
        from finetune_trainer.objectives.reranker_check import check_scores

        # A cross-encoder that was trained on may have given its logits as they are (ms-marco-MiniLM does).
        probability = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        _rewrite(
            folder / "config.json", without="sbert_ce_default_activation_function", sentence_transformers=probability
        )
        # Where there is a chat template, sentence-transformers (6.2) would write the two texts into it; they were trained without.
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        _rewrite(folder / "tokenizer_config.json", without="chat_template")
        check_scores(attempt, folder, dtype)


def _rewrite(path: Path, *, without: str, **values: Any) -> None:
    """Change values of a JSON object."""
    config = json.loads(path.read_text()) | values
    config.pop(without, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


RECIPE: Final = _Reranker()
