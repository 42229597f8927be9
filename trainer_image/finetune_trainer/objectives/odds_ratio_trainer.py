"""The loss of ORPO (arXiv 2403.07691) over what TRL's DPOTrainer gives: its batches, its fused head and its metrics.

TRL's own ORPOTrainer is experimental (1.16): it makes the logits of all tokens in full, tokenizes by `datasets.map` on every rank, and counts no
tokens. Its losses are the same (tests/trainer/test_preference_family.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from trl import DPOTrainer

from finetune_trainer.job_context import JobContext
from finetune_trainer.job_trainer import JobTraining
from finetune_trainer.objectives.reference import without_reference_model


class OddsRatioTrainer(JobTraining, DPOTrainer):
    """One rank's trainer of objective orpo."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        with without_reference_model(type(self)):
            super().__init__(context, **arguments)
        self._learns_prompts = context.attempt.spec.training.loss_on == "all"

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        answers = inputs["completion_mask"]
        pairs = len(answers) // 2
        counted = answers.clone()
        if self._learns_prompts:
            counted[:pairs] = inputs["attention_mask"][:pairs]
        more = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(counted == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **more,
        )
        answers, counted = answers[:, 1:], counted[:, 1:]
        each = outputs.log_probs[:, -answers.shape[1] :]
        likelihood = -each[:pairs].sum() / counted[:pairs].sum().clamp(min=1)
        means = (each * answers).sum(dim=1) / answers.sum(dim=1).clamp(min=1)
        chosen, rejected = means.float().chunk(2)
        odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
        loss = likelihood - self.beta * functional.logsigmoid(odds).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._note(inputs, likelihood, odds, chosen, rejected)
        return (loss, outputs) if return_outputs else loss

    def _note(
        self,
        inputs: dict[str, Any],
        likelihood: torch.Tensor,
        odds: torch.Tensor,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
    ) -> None:
        """Count and measure a batch of all ranks, under the names of TRL's other trainers."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        tokens = self.accelerator.gather(inputs["attention_mask"].sum())
        self._total_train_tokens += int(tokens.sum())
        metrics["num_tokens"] = [self._total_train_tokens]
        found = {
            "nll_loss": likelihood,
            "log_odds_chosen": odds.mean(),
            "rewards/chosen": self.beta * chosen.mean(),
            "rewards/rejected": self.beta * rejected.mean(),
            "rewards/margins": self.beta * (chosen - rejected).mean(),
            "rewards/accuracies": (chosen > rejected).float().mean(),
            "logps/chosen": chosen.mean(),
            "logps/rejected": rejected.mean(),
        }
        means = self.accelerator.gather(torch.stack([value.detach().float() for value in found.values()])[None])
        for name, value in zip(found, means.mean(dim=0).tolist(), strict=True):
            metrics[name].append(value)


def _log_of_rest(log_probability: torch.Tensor) -> torch.Tensor:
    """Return log(1 − p) of p's logarithm, without the cancellation that either form has at one end."""
    near_one = log_probability > -0.693
    inside = torch.where(near_one, torch.expm1(log_probability).neg(), torch.exp(log_probability))
    return torch.where(near_one, torch.log(inside.clamp(min=1e-12)), torch.log1p(-inside.clamp(max=1 - 1e-6)))
