"""SIGTERM: before the first step the process ends at once; while it trains, all ranks agree on a step, save and stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.reasons import Reason
from finetune_trainer.rank_files import RankError, RunDirectory


class Stop:
    """Whether this rank was told to stop."""

    def __init__(self, rank: int, run: RunDirectory, *, leave: Callable[[int], object] = os._exit) -> None:
        self.requested = False
        self.is_training = False
        """From now on a stop waits for the end of the step."""
        self._rank, self._run, self._leave = rank, run, leave

    def install(self) -> None:
        """Handle SIGTERM. A second one (torchrun sends it when a peer has left) changes nothing."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.requested = True
        if self.is_training:
            return
        message = "stopped from outside before the first step; nothing was lost"
        self._run.write_error(
            RankError(
                rank=self._rank,
                time=time.time(),
                exit_code=ExitCode.TERMINATED,
                reason=Reason.TERMINATED,
                message=message,
            )
        )
        # No exception: it would surface inside imports and loaders that catch everything.
        self._leave(int(ExitCode.TERMINATED))
