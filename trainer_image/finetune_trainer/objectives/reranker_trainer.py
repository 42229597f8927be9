"""transformers' Trainer as one rank of a job that learns scores of pairs.

The loss is sentence-transformers' BinaryCrossEntropyLoss (6.2), which itself tokenizes texts in every step; here rows come encoded, and the loss of a
step is the mean over its rows whatever its split.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from finetune_trainer.job_context import JobContext
from finetune_trainer.objectives.attended_tokens import AttendedTokens
from finetune_trainer.objectives.held_out_scores import HeldOutScores


class RerankerTrainer(AttendedTokens, Trainer):
    """One rank's trainer."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        self._held_out: HeldOutScores | None = None
        super().__init__(context, compute_loss_func=self._loss, **arguments)
        self.model_accepts_loss_kwargs = False  # as in labelled_trainer.py

    def _loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        logits = outputs["logits"].float().view(-1)
        if self._held_out is not None and not self.model.training:
            self._held_out.see(logits.sigmoid().tolist(), labels.tolist())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def held_out_measures(self) -> HeldOutScores:
        """Return what keeps the scores of the evaluation rows."""
        self._held_out = HeldOutScores(self.context.collective)
        return self._held_out
