"""What all ranks agree on at the end of every step: to stop, to save, to commit. One small all_reduce, so that no rank waits for another.

transformers' own handling of SIGTERM saves where each rank happens to be: with two ranks it hung or resumed inexactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

from finetune_operator.api.durations import Interval
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.divergence import LossGuard
from finetune_trainer.last_save import forecast
from finetune_trainer.own_time import OwnTime
from finetune_trainer.stopping import Stop
from finetune_trainer.stragglers import PeerWatch


@dataclass
class SaveSchedule:
    """When the next checkpoint is due; time is measured on rank 0 alone."""

    interval: Interval
    last_time: float
    last_step: int

    def is_due(self, step: int, now: float) -> bool:
        """Whether a checkpoint should be written after this step."""
        if self.interval.steps is not None:
            return step - self.last_step >= self.interval.steps
        return self.interval.seconds is not None and now - self.last_time >= self.interval.seconds

    def saved(self, step: int, now: float) -> None:
        """Remember a save, from which the next interval counts."""
        self.last_step, self.last_time = step, now


@dataclass
class StepBoundary(TrainerCallback):
    """Decides at the end of each step, for all ranks at once."""

    schedule: SaveSchedule
    total_steps: int
    stop: Stop
    writer: CheckpointWriter
    collective: Collective
    is_first: bool
    guard: LossGuard = field(default_factory=LossGuard)
    own_time: OwnTime | None = None
    peers: PeerWatch | None = None
    clock: Callable[[], float] = time.monotonic
    stopped_at: int | None = field(default=None, init=False)
    is_saved: bool = field(default=True, init=False)
    """The step at which it stopped has a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        """Agree, then set transformers' own flags: it logs and saves after this callback.

        A periodic save waits for the first step at which no rank uploads any more; the last save of a run or before a stop never does. Before a stop
        nothing is saved that could not be sent before the pod is killed.
        """
        step = state.global_step
        is_time = self.schedule.is_due(step, self.clock()) or self.guard.is_withholding
        due = self.is_first and is_time and not self.guard.is_suspect
        flags = (self.stop.requested, due, self.writer.is_uploading, self.writer.is_struggling)
        own = self.peers.tell(self.own_time.take()) if self.peers and self.own_time else []
        (stop, save, uploading, struggling), times = self._agree(flags, own, args.device)
        if self.peers:
            self.peers.hear(times)
        if (save or stop) and struggling:
            self.writer.give_up_retrying()  # what is newer is worth more than what does not get through
        if self.writer.has_pending and not uploading:
            self.writer.finish()
        if stop and step < self.total_steps:
            self.stopped_at, self.is_saved = step, self._has_time_to_save()
            control.should_training_stop = True
        if (stop and self.is_saved) or step >= self.total_steps or (save and not uploading and not stop):
            control.should_save = True
            self.schedule.saved(step, self.clock())
        return control

    def _has_time_to_save(self) -> bool:
        found = forecast(self.collective.gather(self.writer.outlook(self.stop.seconds_left())))
        if self.is_first:
            print(f"stopped from outside: {found.sentence}", flush=True)
        return found.fits

    def _agree(self, flags: Sequence[int], own: Sequence[int], device: Any) -> tuple[list[int], list[int]]:
        highest = self.collective.maxima((*flags, *own), device)
        return highest[: len(flags)], highest[len(flags) :]
