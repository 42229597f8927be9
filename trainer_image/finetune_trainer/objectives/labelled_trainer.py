"""transformers' Trainer as one rank of a job that learns classes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from finetune_trainer.encoding import IGNORED
from finetune_trainer.job_context import JobContext
from finetune_trainer.objectives.attended_tokens import AttendedTokens
from finetune_trainer.objectives.held_out_classes import HeldOutClasses
from finetune_trainer.objectives.labelled import class_names


class LabelledTrainer(AttendedTokens, Trainer):
    """One rank's trainer. The loss of a step is the mean over its classes, of all ranks and micro-batches."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        self._counts = torch.zeros(2, dtype=torch.long)
        """Right classes and all classes of the step, on this rank."""
        self._held_out: HeldOutClasses | None = None
        super().__init__(context, compute_loss_func=self._loss, **arguments)
        # BERT's and RoBERTa's forward takes the number of classes and ignores it (transformers 5.23): with accumulation the loss of the step
        # would be the sum of its micro-batches' means. `_loss` is given it instead.
        self.model_accepts_loss_kwargs = False

    def _loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        logits = outputs["logits"].float()
        if self._held_out is not None and not self.model.training:
            self._held_out.see(logits, labels, IGNORED)
        logits, labels = logits.view(-1, logits.shape[-1]), labels.view(-1)
        counted = labels != IGNORED
        if self.model.training:
            right = (logits.detach().argmax(-1) == labels) & counted
            self._counts += torch.stack((right.sum(), counted.sum())).cpu()
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return loss / (counted.sum() if num_items_in_batch is None else num_items_in_batch)

    def held_out_measures(self) -> HeldOutClasses:
        """Return what keeps the classes of the evaluation rows."""
        self._held_out = HeldOutClasses(class_names(self.context.attempt), self.context.collective)
        return self._held_out

    def reset_measures(self) -> None:
        """Forget what was measured since the last step."""
        self._counts.zero_()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of right classes in the step's batch. Collective, as every rank logs every step."""
        if "loss" in logs:
            right, counted = self.accelerator.reduce(self._counts.to(self.args.device), "sum").tolist()
            self.reset_measures()
            if counted:
                logs["batch_accuracy"] = right / counted
        super().log(logs, start_time)
