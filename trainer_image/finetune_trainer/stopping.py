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

    def __init__(
        self,
        rank: int,
        run: RunDirectory,
        *,
        grace_seconds: float | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.requested = False
        self.is_training = False
        """From now on a stop waits for the end of the step."""
        self._rank, self._run, self._leave = rank, run, leave
        self._grace_seconds = grace_seconds
        self._requested_at: float | None = None

    def install(self) -> None:
        """Handle SIGTERM. A second one (torchrun sends it when a peer has left) changes nothing."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def seconds_left(self) -> float | None:
        """Return how long until SIGKILL comes; None on a rank that was not told to stop, and where nobody says how long the grace period is."""
        if self._grace_seconds is None or self._requested_at is None:
            return None
        return self._requested_at + self._grace_seconds - time.monotonic()

    def _on_signal(self, number: int, frame: object) -> None:
        self.requested = True
        self._requested_at = self._requested_at or time.monotonic()
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
