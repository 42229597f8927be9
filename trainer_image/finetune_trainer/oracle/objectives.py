"""Batches and losses: what a trainer feeds the model and how it gets from outputs to the number that backward starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from finetune_trainer.oracle.setting import TracedLoss, TracedObjective, TraceSetting
from finetune_trainer.oracle.traced_model import TracedModel


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the GPU: rows × length."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return what the model takes beside the labels."""
        found = {"input_ids": self.input_ids}
        if self.attention_mask is not None:
            found["attention_mask"] = self.attention_mask
        return found


def make_batch(setting: TraceSetting, model: TracedModel) -> Batch:
    """Return a batch of zeros; preference objectives put chosen and rejected rows into one (TRL 1.16: twice the rows)."""
    pairs = setting.objective in (TracedObjective.DPO, TracedObjective.REWARD)
    rows, length = setting.micro_batch * (2 if pairs else 1), setting.sequence_length
    ids = torch.zeros(rows, length, dtype=torch.int64)
    per_row = setting.objective is TracedObjective.CLASSIFICATION
    return Batch(
        input_ids=ids,
        labels=torch.zeros(rows, dtype=torch.int64) if per_row else torch.zeros(rows, length, dtype=torch.int64),
        attention_mask=torch.ones(rows, length, dtype=torch.int64) if setting.padding else None,
    )


def loss_of(setting: TraceSetting, model: TracedModel, reference: TracedModel | None, batch: Batch) -> torch.Tensor:
    """Return the loss of one micro-batch."""
    if setting.objective is TracedObjective.DPO:
        return _preference_loss(setting, model, reference, batch)
    if setting.objective is TracedObjective.REWARD:
        rewards = model.module(**batch.inputs(), use_cache=False).logits.squeeze(-1)
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected).mean()
    if setting.loss is TracedLoss.CHUNKED:
        outputs = model.module(**batch.inputs(), labels=batch.labels, use_cache=False, fused_lm_head=True)
        fused: torch.Tensor = -outputs.log_probs.sum() / outputs.label_mask.sum().clamp(min=1)
        return fused
    loss: torch.Tensor = model.module(**batch.inputs(), labels=batch.labels).loss
    return loss


def _preference_loss(
    setting: TraceSetting, model: TracedModel, reference: TracedModel | None, batch: Batch
) -> torch.Tensor:
    """DPO's sigmoid loss (trl/trainer/dpo_trainer.py, 1.16): the policy first, then the reference without gradients."""
    outputs = _token_log_probabilities(setting, model.module, batch)
    with torch.no_grad():
        if reference is not None:
            expected = _token_log_probabilities(setting, reference.module, batch)
        else:
            with model.module.disable_adapter():
                expected = _token_log_probabilities(setting, model.module, batch)
    policy = outputs.sum(-1)
    chosen, rejected = (policy - expected.sum(-1)).chunk(2)
    return -F.logsigmoid(0.1 * (chosen - rejected)).mean()


def _token_log_probabilities(setting: TraceSetting, module: Any, batch: Batch) -> torch.Tensor:
    if setting.loss is TracedLoss.CHUNKED:
        found: torch.Tensor = module(
            **batch.inputs(), labels=batch.labels, use_cache=False, fused_lm_head=True
        ).log_probs
        return found
    logits = module(**batch.inputs(), use_cache=False).logits[:, :-1]
    # TRL's selective_log_softmax: in half precision row by row, log_softmax of one sequence at a time.
    rows = [
        F.log_softmax(row, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        for row, labels in zip(logits, batch.labels[:, 1:], strict=True)
    ]
    return torch.stack(rows)
