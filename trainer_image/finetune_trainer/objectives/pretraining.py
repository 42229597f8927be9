"""Continued pre-training on raw text (objective pretrain): documents with their end token, cut into pieces, every token learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.encoding import pieces
from finetune_trainer.objectives.recipe import EncodedRow, RowEncoder
from finetune_trainer.objectives.supervised import Supervised
from finetune_trainer.rendering import Text
from finetune_trainer.rows import RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles


class _Pretraining(Supervised):
    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            tokens = tokenizer.tokenizer.encode(texts[0].text).ids
            cuts = pieces(len(tokens), attempt.plan.max_length)
            return [{"input_ids": tokens[first:last], "labels": tokens[first:last]} for first, last in cuts]

        return encode


RECIPE: Final = _Pretraining()
