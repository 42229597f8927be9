"""Token classification (objective token-classification): a class for each word, learned at the word's first piece.

The words are joined by spaces and tokenized as one text, as they will be when the model is used: a byte-level tokenizer writes the space before a
word into the word's first token, and would have written another one for words that come alone. Which token begins which word is told by the
characters that it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from tokenizers import Tokenizer

from finetune_operator.api.measures import ENTITY_MEASURES
from finetune_trainer.encoding import IGNORED, Span
from finetune_trainer.objectives.labelled import LabelledRecipe
from finetune_trainer.objectives.recipe import EncodedRow
from finetune_trainer.rendering import Text
from finetune_trainer.rows import LabelledWords, RowValue


def first_pieces(words: Sequence[str], offsets: Sequence[Span]) -> list[int | None]:
    """Return for each token the number of the word that it begins, None where it begins none.

    Args:
        words: As they were joined by single spaces.
        offsets: The characters of the joined text that each token covers, as `tokenizers` tells them; (0, 0) for special tokens.
    """
    # The space before a word counts as its own: byte-level tokenizers put it into the word's first token, or make one of it alone.
    owner = [index for index, word in enumerate(words) for _ in range(len(word) + (index > 0))]
    found: list[int | None] = []
    last = -1
    for first, end in offsets:
        begins = end > first and owner[first] > last
        last = owner[first] if begins else last
        found.append(last if begins else None)
    return found


class _TokenClassification(LabelledRecipe):
    auto_class = "AutoModelForTokenClassification"
    task_type = "TOKEN_CLS"
    held_out = {**LabelledRecipe.held_out, **{name: name for name in ENTITY_MEASURES}}  # noqa: RUF012 - never changed
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])

    def encode(
        self, tokenizer: Tokenizer, numbers: dict[str, int], value: RowValue, text: Text
    ) -> Sequence[EncodedRow]:
        assert isinstance(value, LabelledWords)  # noqa: S101 - the objective's layouts make no other
        encoding = tokenizer.encode(text.text)
        pieces = first_pieces(value.words, encoding.offsets)
        labels = [IGNORED if word is None else numbers[value.labels[word]] for word in pieces]
        if all(label == IGNORED for label in labels):
            return ()
        return ({"input_ids": encoding.ids, "labels": labels},)

    def collator(self, tokenizer: Any) -> Any:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)


RECIPE: Final = _TokenClassification()
