"""What a rank's trainer needs beside transformers' own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_operator.api.plan import AttemptFile
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.divergence import LossGuard
from finetune_trainer.objectives.recipe import Recipe
from finetune_trainer.own_time import OwnTime
from finetune_trainer.stopping import Stop
from finetune_trainer.telemetry import Telemetry
from finetune_trainer.watchdog import Watchdog


@dataclass(frozen=True)
class JobContext:
    """The parts of one rank."""

    attempt: AttemptFile
    recipe: Recipe
    place: Place
    collective: Collective
    telemetry: Telemetry
    writer: CheckpointWriter
    stop: Stop
    watchdog: Watchdog
    guard: LossGuard
    own_time: OwnTime
    probes: bool
    """Try the longest batch before the first step: no attempt has trained by this plan yet."""
    evaluation_rows: Any = None
    """Encoded rows that are not trained, a `datasets.Dataset`; None: there is no evaluation."""
    teacher: Path | None = None
    """The folder of the model that is learned from (objective distill)."""
    reward_models: tuple[Path, ...] = ()
    """Local folders of the models among the rewards, in order."""
    functions: Mapping[str, Path] = field(default_factory=dict)
    """Local folders of the ConfigMaps that functions among the rewards are in."""

    def lengths(self, rows: Any) -> list[int]:
        """Return the tokens of each encoded row."""
        found: list[int] = self.recipe.lengths(rows.data.table).to_pylist()
        return found
