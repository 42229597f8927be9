"""Classification (objective classification): a class for each text, or for each pair of texts that are read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from tokenizers import Tokenizer

from finetune_trainer.objectives.labelled import SEGMENTS, LabelledRecipe
from finetune_trainer.objectives.recipe import EncodedRow
from finetune_trainer.rendering import Text
from finetune_trainer.rows import LabelledText, RowValue


class _Classification(LabelledRecipe):
    auto_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), (SEGMENTS, pa.list_(pa.int8())), ("labels", pa.int32())])

    def encode(
        self, tokenizer: Tokenizer, numbers: dict[str, int], value: RowValue, text: Text
    ) -> Sequence[EncodedRow]:
        assert isinstance(value, LabelledText)  # noqa: S101 - the objective's layouts make no other
        encoding = tokenizer.encode(text.text, text.pair)
        return ({"input_ids": encoding.ids, SEGMENTS: encoding.type_ids, "labels": numbers[value.label]},)

    def collator(self, tokenizer: Any) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)


RECIPE: Final = _Classification()
