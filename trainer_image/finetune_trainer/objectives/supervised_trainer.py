"""TRL's SFTTrainer as one rank of a job; the only one that takes packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from finetune_trainer.job_context import JobContext
from finetune_trainer.job_trainer import JobTraining
from finetune_trainer.packed_batches import PackedCollator, check_isolation, real_tokens


class SupervisedTrainer(JobTraining, SFTTrainer):
    """One rank's trainer."""

    def __init__(self, context: JobContext, **arguments: Any) -> None:
        super().__init__(context, **arguments)
        # SFTTrainer's own loss divides by the tokens of all ranks and accumulation steps; models whose forward takes no such number
        # would switch it off and average averages.
        self.model_accepts_loss_kwargs = True
        self._packs = context.attempt.plan.packed
        self._packed_tokens = 0
        if self._packs:
            self.data_collator: Any = PackedCollator(self.data_collator)

    def before_training(self, resumed_from: Path | None) -> None:
        """Prove that packed rows do not see each other."""
        if self._packs:
            check_isolation(self.model_wrapped, self.model.config.get_text_config().vocab_size)

    def note_batches(self, batches: list[Any], device: Any) -> None:
        """Count the tokens of packed sequences: TRL counts those of one sequence where there is no attention mask."""
        if self._packs:
            tokens = sum(real_tokens(batch["position_ids"]) for batch in batches)
            self._packed_tokens = int(self.accelerator.gather(torch.tensor(tokens, device=device)).sum())

    def tokens_of_step(self, logs: dict[str, float]) -> int:
        """Return how many tokens of all ranks the step had."""
        return self._packed_tokens or super().tokens_of_step(logs)
