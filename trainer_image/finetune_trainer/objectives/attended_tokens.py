"""How many tokens a step had where the library's trainer does not count them: those that the attention masks of its batches let through."""

from __future__ import annotations

from typing import Any

import torch

from finetune_trainer.job_trainer import JobTraining


class AttendedTokens(JobTraining):
    """A rank's trainer that counts the tokens itself."""

    _tokens = 0
    """Of all ranks, in the current step."""

    def note_batches(self, batches: list[Any], device: Any) -> None:
        """Count the tokens of all ranks."""
        own = sum(int(batch["attention_mask"].sum()) for batch in batches)
        self._tokens = int(self.accelerator.gather(torch.tensor(own, device=device)).sum())

    def tokens_of_step(self, logs: dict[str, float]) -> int:
        """Return how many tokens of all ranks the step had."""
        return self._tokens
