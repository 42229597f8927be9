"""Saves the folder of a user's own script in the first pod, or in the only one: when a checkpoint is due, and what is left at the end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from finetune_operator.api.durations import parse_interval
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.script_folder import Snapshot, newest_step
from finetune_trainer.script_other_pods import OtherPods
from finetune_trainer.script_pods import Request


class Saver(Protocol):
    """What one pod does for its script's folder."""

    def look(self, current: Snapshot, now: float, *, is_quiet: bool) -> None:
        """Begin or go on with a checkpoint, when there is something to do. Never waits."""
        ...

    def end(self, current: Snapshot, code: int, *, is_quiet: bool) -> bool:
        """Save what the script has left, which ended with `code`, and return whether the job's last checkpoint is committed."""
        ...


class FirstPodSaver:
    """Commits the checkpoints of all pods."""

    def __init__(
        self,
        every: str,
        source: Path,
        staged: Path,
        writer: CheckpointWriter,
        saved: Snapshot,
        saved_step: Callable[[], int | None],
        others: OtherPods | None,
        stopped: Callable[[], bool],
    ) -> None:
        self._interval = parse_interval(every)
        self._source, self._staged = source, staged
        self._writer, self._others, self._stopped = writer, others, stopped
        self._saved_step = saved_step
        """Of the newest checkpoint that was committed."""
        self._saved = saved
        """What is in the newest checkpoint, committed or on its way."""
        self._last_time, self._last_step = time.monotonic(), saved_step() or 0
        writer.proven_before = sys.maxsize  # nobody here can judge a script's checkpoint by the losses after it

    def look(self, current: Snapshot, now: float, *, is_quiet: bool) -> None:
        """Begin or go on with a checkpoint."""
        writer, is_whole = self._writer, is_quiet and current.is_whole
        if writer.has_pending:
            self._finish()
            if not (is_whole and self._is_late(current)):
                return
            _say("some pod has not sent its part of a checkpoint, and the script has saved another step since")
            self._give_up()
        step = newest_step(current) or 0
        due = (
            step - self._last_step >= self._interval.steps
            if self._interval.steps is not None
            else now - self._last_time >= (self._interval.seconds or 0)
        )
        if due and is_whole and current != self._saved:
            self._begin(current)
            self._last_time, self._last_step = now, step

    def end(self, current: Snapshot, code: int, *, is_quiet: bool) -> bool:
        """Save what a script has left that has ended well, was told to stop, or had not written for a while: a crash may leave half a checkpoint.

        Of several pods nothing is saved after a crash: nobody knows whether the others have come as far.
        """
        is_done, is_stopped, is_alone = code == 0, self._stopped(), self._others is None
        self._complete(waits=is_done or is_stopped or is_alone, is_final=False)
        ended_whole = (is_stopped or (is_quiet and is_alone)) and current.is_whole
        if is_done or (ended_whole and current != self._saved):
            self._writer.is_final = is_done
            self._begin(current)
            is_done = self._complete(waits=True, is_final=is_done) and is_done
        self._writer.close()
        return is_done

    def _begin(self, current: Snapshot) -> None:
        shutil.rmtree(self._staged, ignore_errors=True)
        current.link(self._source, self._staged)
        newest = newest_step(current)
        # Numbers only rise: a script that names none, or the same again, counts by its saves.
        step = max(newest or 0, (self._saved_step() or 0) + 1)
        folder = self._writer.begin(step, self._staged, time.monotonic())
        if self._others is not None:
            self._others.ask(folder, Request(newest=newest, is_final=self._writer.is_final))
        self._saved = current

    def _is_late(self, current: Snapshot) -> bool:
        waits = self._others is not None and self._writer.has_pending and not self._writer.is_uploading
        return waits and self._others is not None and self._others.has_moved_on(newest_step(current))

    def _give_up(self) -> None:
        self._writer.abandon()
        self._saved = Snapshot()

    def _finish(self) -> None:
        """Commit what is on its way when all of it is sent."""
        writer = self._writer
        parts = self._others.parts() if self._others is not None else ()
        if not writer.has_pending or writer.is_uploading or parts is None:
            return
        if self._saved.is_unchanged_in(self._staged):
            writer.finish(others=parts)
            return
        _say("a file of the script's folder was written in place while it was saved; this checkpoint does not count")
        self._give_up()

    def _complete(self, *, waits: bool, is_final: bool) -> bool:
        """Commit what is on its way, and return whether it could be; only a checkpoint that a stop has made is not waited for without end."""
        began = stopped_at = time.monotonic()
        while self._writer.has_pending:
            self._finish()
            now = time.monotonic()
            if not self._writer.has_pending:
                break
            stopped_at = now if not self._stopped() else stopped_at
            if self._others is not None and not self._writer.is_uploading:
                limits, waited = self._others.limits, now - (stopped_at if is_final else began)
                limit = limits.send if self._others.have_all_begun() else limits.answer
                if not waits or waited > limit:
                    _say("a checkpoint is given up: not every pod has sent its part")
                    self._give_up()
                    return False
            time.sleep(0.05)
        return True


def _say(text: str) -> None:
    print(text, flush=True)
