"""transformers' Trainer as one rank of a job that learns vectors of texts, with the losses of sentence-transformers.

Rows without a score are compared with all others of the global batch, whatever its split: a rank's share of the batch passes through the model in
parts without gradients, the loss is computed on the vectors of all ranks, and the parts pass once more for their gradients (GradCache,
arXiv 2101.06983; sentence-transformers' CachedMultipleNegativesRankingLoss). Where the share is one part the first pass is left out, which changes
nothing of what is computed. Rows with a score need no other rows: their squared errors are averaged over the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import cos_sim
from transformers import DataCollatorWithPadding, Trainer

from finetune_trainer.collective import Collective
from finetune_trainer.job_context import JobContext
from finetune_trainer.objectives.attended_tokens import AttendedTokens
from finetune_trainer.objectives.embedding import POOLING_NAMES, TEXT_COLUMNS, compares_rows, pooling_of
from finetune_trainer.objectives.held_out_scores import rank_correlation

EQUAL: Final = 1e-5
"""Cosines of equal texts that were padded to different lengths differ by less."""
TEXTS_OF_ROW: Final = 2
"""How many texts of a row pass through the model together; the estimator's sequences_per_row."""


class TextCollator:
    """Pads the texts of rows to one batch: all first ones, then all second ones, then all third ones where there are some."""

    def __init__(self, tokenizer: Any) -> None:
        self._pad = DataCollatorWithPadding(tokenizer)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return input_ids and attention_mask, (texts of a row × rows, tokens), and labels, (rows), where the rows have scores."""
        names = [name for name in TEXT_COLUMNS if rows[0][name] is not None]
        batch = dict(self._pad([{"input_ids": row[name]} for name in names for row in rows]))
        if rows[0]["score"] is not None:
            batch["labels"] = torch.tensor([row["score"] for row in rows])
        batch["texts_of_row"] = torch.tensor(len(names))
        return batch


class TokenVectors(torch.nn.Module):
    """A model as sentence-transformers' losses call it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add the vectors of the last layer, (texts, tokens, hidden)."""
        output = self._model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
        return {**features, "token_embeddings": output.last_hidden_state}


def text_vectors(model: Any, hidden: int, pooling: str) -> Any:
    """Return a module that adds `sentence_embedding`, (texts, hidden)."""
    return torch.nn.Sequential(TokenVectors(model), Pooling(hidden, pooling))


def without_pooler(model: Any) -> Any:
    """Return the model with its pooler frozen: BERT and its kind have one, which no vector passes through here, so that it gets no gradient."""
    if getattr(model, "pooler", None) is not None:
        model.pooler.requires_grad_(False)
    return model


class EmbeddingTrainer(AttendedTokens, Trainer):
    """One rank's trainer."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        super().__init__(context, **arguments)
        attempt = context.attempt
        self._compares = compares_rows(attempt)
        self._pooling = POOLING_NAMES[pooling_of(attempt)]
        self._part = attempt.plan.micro_batch_size * TEXTS_OF_ROW
        self._is_one_part = attempt.plan.gradient_accumulation == 1
        self._scale = 1.0 / attempt.spec.embedding.temperature
        self._held_out: HeldOutVectors | None = None
        self.model_accepts_loss_kwargs = True  # the number of scores of a global batch, below

    @property
    def evaluated_together(self) -> int:
        """Rows that are compared in an evaluation: as many as in training, on whatever number of processes."""
        return int(self.context.attempt.plan.global_batch_size)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch of texts."""
        columns = _columns(inputs)
        vectors = text_vectors(model, self.model.config.hidden_size, self._pooling)
        if not torch.is_grad_enabled():
            return self._evaluated(vectors, columns, inputs.get("labels"))
        if not self._compares:
            return self._squared_errors(_embedded(vectors, inputs, len(columns)), inputs["labels"], num_items_in_batch)
        settings = {"scale": self._scale, "gather_across_devices": self.context.place.world_size > 1}
        if self._is_one_part and len(columns) == TEXTS_OF_ROW:
            loss = MultipleNegativesRankingLoss(vectors, **settings)
            return loss.compute_loss_from_embeddings(_embedded(vectors, inputs, len(columns)), None)
        return CachedMultipleNegativesRankingLoss(vectors, mini_batch_size=self._part, **settings)(columns, None)

    def _squared_errors(self, vectors: list[Any], scores: Any, of_all: Any) -> Any:
        loss = CosineSimilarityLoss(None, loss_fct=torch.nn.MSELoss(reduction="sum"))
        summed = loss.compute_loss_from_embeddings(vectors, scores)
        # Gradients and losses of ranks are averaged afterwards, and `of_all` counts the scores of all ranks and micro-batches.
        return summed / scores.numel() if of_all is None else summed * self.accelerator.num_processes / of_all

    def _evaluated(self, vectors: Any, columns: list[dict[str, Any]], scores: Any) -> Any:
        """Return the loss of one batch, in parts that fit; no other rank takes part."""
        made = [
            torch.cat(
                [
                    vectors(_create_minibatch(column, first, first + self._part))["sentence_embedding"].float()
                    for first in range(0, len(column["input_ids"]), self._part)
                ]
            )
            for column in columns
        ]
        if self._held_out is not None:
            self._held_out.see(made, scores)
        if scores is not None:
            return self._squared_errors(made, scores, None)
        loss = MultipleNegativesRankingLoss(None, scale=self._scale)
        return loss.compute_loss_from_embeddings(made, None)

    def held_out_measures(self) -> HeldOutVectors:
        """Return what hears of the batches of an evaluation."""
        self._held_out = HeldOutVectors(self.context.collective)
        return self._held_out


class HeldOutVectors:
    """What one evaluation measures: how well the order of the cosines fits that of the scores, or how often the right text is the closest."""

    def __init__(self, collective: Collective) -> None:
        self._collective = collective
        self._cosines: list[float] = []
        self._scores: list[float] = []
        self._hits: list[float] = []
        self._batch: tuple[list[float], list[float], list[float]] = ([], [], [])

    def see(self, vectors: list[Any], scores: Any) -> None:
        """Hear of a batch: for each text of its rows a tensor (rows, hidden), and the scores where there are some."""
        if scores is not None:
            self._batch = (torch.cosine_similarity(vectors[0], vectors[1]).tolist(), scores.tolist(), [])
            return
        cosines = cos_sim(vectors[0], torch.cat(vectors[1:]))
        near = cosines >= cosines.amax(1, keepdim=True) - EQUAL
        # What is equally close shares the hit: a model with one vector for all texts must not look good.
        self._batch = ([], [], (near.diagonal() / near.sum(1)).tolist())

    def note(self, weight: int) -> None:
        """Count the batch that was seen."""
        if weight:
            cosines, scores, hits = self._batch
            self._cosines += cosines
            self._scores += scores
            self._hits += hits

    def total(self) -> dict[str, float]:
        """Return the measures of all ranks' rows. Collective."""
        parts = self._collective.gather((self._cosines, self._scores, self._hits))
        cosines, scores, hits = ([item for part in parts for item in part[side]] for side in range(3))
        if hits:
            return {"retrieval_accuracy": sum(hits) / len(hits)}
        return rank_correlation(scores, cosines)


def _columns(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the features of all first texts, of all second ones, and of all third ones."""
    count = int(inputs["texts_of_row"])
    rows = len(inputs["input_ids"]) // count
    return [
        {name: inputs[name][start : start + rows] for name in ("input_ids", "attention_mask")}
        for start in range(0, count * rows, rows)
    ]


def _embedded(vectors: Any, inputs: dict[str, Any], count: int) -> list[Any]:
    """Return the vectors of the same, which pass through the model at once."""
    features = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return list(vectors(features)["sentence_embedding"].chunk(count))
