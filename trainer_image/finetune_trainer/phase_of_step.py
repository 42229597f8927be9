"""Where in the run a rank is, told to its telemetry: after an out-of-memory the next plan must be smaller there."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from finetune_operator.api.plan import Phase
from finetune_trainer.telemetry import Telemetry


class PhaseOfStep(TrainerCallback):
    """Tells where in the run a rank is; forward and backward pass count as one phase."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """A step's first micro-batch follows."""
        self._telemetry.phase = Phase.BACKWARD

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """All gradients are there, and clipped."""
        self._telemetry.phase = Phase.OPTIMIZER_STEP

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Weights are updated; gradients go."""
        self._telemetry.phase = Phase.BACKWARD

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Only the export is left."""
        self._telemetry.phase = Phase.SAVE
