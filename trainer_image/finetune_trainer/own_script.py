"""Beside a user's own script: its folder is restored before it begins, saved while it runs, and when it ends that is the attempt's end.

A checkpoint is the script's whole folder at a moment in which nobody has written to it for some seconds. It is linked, not copied, so that the
script may delete what it likes; when a file was written in place meanwhile the checkpoint is not committed. What a script does inside nobody here
knows: no probe, no memory per phase, and a hang shows only in what it reports. No torch: this runs in the image that inspects.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from finetune_operator.api.durations import parse_interval
from finetune_operator.api.exit_codes import EXIT_MEANINGS, ExitCode, meaning_of
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import Reason
from finetune_operator.api.run_events import CheckpointEvent, ResumeEvent
from finetune_operator.api.trainer import (
    ALIVE_FILE,
    BEGIN_FILE,
    CANCEL_FILE,
    CHECKPOINTS,
    CONTROL,
    EXIT_FILE,
    KEEPER_FILE,
    PROGRESS_FILE,
    RESULT,
    SCRIPT_FOLDER,
    STOP_FILE,
)
from finetune_trainer.attempt import Place, Workplace
from finetune_trainer.causes import Cause
from finetune_trainer.checkpoint_reader import Found, find_checkpoint
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.events import EventLog
from finetune_trainer.rank_files import RankState
from finetune_trainer.report import https_sender
from finetune_trainer.script_folder import Snapshot, look, newest_step
from finetune_trainer.script_progress import ProgressRelay, ProgressWatch
from finetune_trainer.storage import open_writable
from finetune_trainer.watchdog import hang_seconds

LOOK_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 5.0
"""How long nothing may have been written before the folder is taken for whole."""
LOST_SECONDS: Final = 60.0
"""After which a script's shell that no longer says that it is there has been killed; it says so every two seconds."""
_SIGTERM_CODE: Final = 143


@dataclass
class OwnScript:
    """One pod's script, from its restored folder to the cause of its end."""

    attempt: AttemptFile
    place: Workplace
    index: int
    """Of the pod; the first one's folder is saved, and every pod's restored."""
    stopped: Callable[[], bool]
    look_seconds: float = LOOK_SECONDS
    quiet_seconds: float = QUIET_SECONDS
    lost_seconds: float = LOST_SECONDS
    hang_limit: Callable[[Sequence[float]], float] = hang_seconds
    """Seconds without progress after which a script that has reported some hangs, from those of its last steps."""
    _events: EventLog = field(default_factory=EventLog)
    saved_step: int | None = None
    """Of the newest checkpoint that was committed."""
    _saved: Snapshot = field(default_factory=Snapshot)
    """What is in the newest checkpoint, committed or on its way."""
    _was_quiet: bool = False
    """Nothing had been written for a while when the script ended."""
    _hang: Cause | None = None
    """The script was stopped because it made no progress."""

    def run(self) -> Cause:
        """Restore, let the script begin, save until it ends, and return how it ended."""
        folder, control = self.folder, self.place.work / CONTROL
        shutil.rmtree(folder, ignore_errors=True)
        control.mkdir(parents=True, exist_ok=True)
        found = self._restore(folder)
        if found.manifest is not None and found.manifest.is_final:
            self.cancel()
            self._note()
            return Cause(ExitCode.OK, Reason.SUCCEEDED, "the script had ended and all was saved already")
        for name in (CHECKPOINTS, RESULT):
            (folder / name).mkdir(parents=True, exist_ok=True)
        writer = self._writer(found) if self.index == 0 else None
        self._saved = look(folder)
        watch = ProgressWatch(self.hang_limit)
        relay = ProgressRelay(lambda status: watch.report(status, time.monotonic()), https_sender(self.attempt))
        try:
            (control / PROGRESS_FILE).write_text(relay.url)
            (control / KEEPER_FILE).touch()
            (control / BEGIN_FILE).touch()
            code = self._follow(control, writer, watch)
        finally:
            relay.close()
        if writer is not None:
            self._save_last(writer, code)
        self._note()
        return self._cause(code)

    def cancel(self) -> None:
        """Let the script's container end without having begun."""
        control = self.place.work / CONTROL
        control.mkdir(parents=True, exist_ok=True)
        (control / CANCEL_FILE).touch()

    def _note(self) -> None:
        """Say what was saved where the words of the pod's end are made (rank_files.py)."""
        state = RankState(rank=0, process=os.getpid(), step=self.saved_step, checkpoint_step=self.saved_step)
        self.place.run.write_state(state)

    @property
    def folder(self) -> Path:
        """The script's folder."""
        return self.place.work / SCRIPT_FOLDER

    def _restore(self, folder: Path) -> Found:
        found = find_checkpoint(
            self.attempt,
            Place(0, 1, 0, 1),
            open_writable(self.attempt.checkpoint_uri),
            Collective(1),
            self.place.resume,
            on_rejected=self._tell,
        )
        if found.manifest is not None:
            self.place.resume.rename(folder)
            self.saved_step = found.manifest.step
            self._events.write(ResumeEvent(attempt=self.attempt.attempt, step=found.manifest.step, uri=found.uri or ""))
        return found

    def _writer(self, found: Found) -> CheckpointWriter:
        return CheckpointWriter(
            self.attempt,
            Place(0, 1, 0, 1),
            open_writable(self.attempt.checkpoint_uri),
            Collective(1),
            start=found.start,
            verified=found.folder,
            rejected=found.rejected,
            on_commit=self._committed,
            on_failure=_say,
            on_retry=_say,
        )

    def _committed(self, event: CheckpointEvent) -> None:
        self.saved_step = event.step
        self._tell(event)

    def _tell(self, event: CheckpointEvent) -> None:
        self._events.write(event)
        _say(f"checkpoint of step {event.step}: {'saved' if event.verified else event.problem}")

    def _follow(self, control: Path, writer: CheckpointWriter | None, watch: ProgressWatch) -> int:
        """Save until the script has ended; return its exit code, 137 where it was killed without a word."""
        interval = parse_interval(self.attempt.spec.checkpoint.every)
        last_time, last_step = time.monotonic(), self.saved_step or 0
        seen, since = self._saved, time.monotonic()
        while True:
            code = self._ended(control)
            if code is not None:
                self._was_quiet = look(self.folder) == seen and time.monotonic() - since >= self.quiet_seconds
                return code if self._hang is None else int(self._hang.exit_code)
            time.sleep(self.look_seconds)
            (control / KEEPER_FILE).touch()
            now = time.monotonic()
            current = look(self.folder)
            if current != seen:
                seen, since = current, now
                watch.wrote(now)
            silent = watch.silent_seconds(now)
            if silent is not None and self._hang is None:
                self._hang = _hang(silent, watch.step)
                _say(f"hang: {self._hang.message}; the script is stopped")
                (control / STOP_FILE).touch()
            if writer is None:
                continue
            if writer.has_pending:
                self._finish(writer, wait=False)
                continue
            step = newest_step(current) or 0
            due = (
                step - last_step >= interval.steps
                if interval.steps is not None
                else now - last_time >= (interval.seconds or 0)
            )
            if due and current != self._saved and current.is_whole and now - since >= self.quiet_seconds:
                self._begin(writer, current)
                last_time, last_step = now, step

    def _ended(self, control: Path) -> int | None:
        told = control / EXIT_FILE
        if told.exists():
            return int(told.read_text().strip() or ExitCode.BUG)
        alive = control / ALIVE_FILE
        # Without the file its container has not begun: its image may still be on its way.
        if alive.exists() and time.time() - alive.stat().st_mtime > self.lost_seconds:
            return int(ExitCode.KILLED)
        return int(ExitCode.TERMINATED) if self.stopped() and not alive.exists() else None

    def _begin(self, writer: CheckpointWriter, current: Snapshot) -> None:
        staged = self.place.staging / "script"
        shutil.rmtree(staged, ignore_errors=True)
        current.link(self.folder, staged)
        # Numbers only rise: a script that names none, or the same again, counts by its saves.
        step = max(newest_step(current) or 0, (self.saved_step or 0) + 1)
        writer.begin(step, staged, time.monotonic())
        self._saved = current

    def _finish(self, writer: CheckpointWriter, *, wait: bool) -> None:
        if writer.is_uploading and not wait:
            return
        if self._saved.is_unchanged_in(self.place.staging / "script"):
            writer.finish()
            return
        _say("a file of the script's folder was written in place while it was saved; this checkpoint does not count")
        writer.abandon()
        self._saved = Snapshot()

    def _save_last(self, writer: CheckpointWriter, code: int) -> None:
        """Save what a script has left that has ended well, was told to stop, or had not written for a while: a crash may leave half a checkpoint."""
        current = look(self.folder)
        if writer.has_pending:
            self._finish(writer, wait=True)
        is_done = code == 0
        ended_whole = (self.stopped() or self._was_quiet) and current.is_whole
        if is_done or (ended_whole and current != self._saved):
            writer.is_final = is_done
            self._begin(writer, current)
        writer.close()

    def _cause(self, code: int) -> Cause:
        if self._hang is not None:
            return self._hang
        trainer = self.attempt.spec.trainer
        name = " ".join(trainer.command[:3]) if trainer else ""
        if code == 0:
            return Cause(ExitCode.OK, Reason.SUCCEEDED, "the script has ended well")
        if code in (_SIGTERM_CODE, ExitCode.TERMINATED) and self.stopped():
            return Cause(
                ExitCode.TERMINATED, Reason.TERMINATED, "stopped from outside; what the script had saved was kept"
            )
        if code == ExitCode.KILLED:
            return Cause(
                ExitCode.KILLED, Reason.RANK_KILLED, f"the script ({name}) was killed, by hand or for want of memory"
            )
        known = code in EXIT_MEANINGS and code >= ExitCode.BAD_SPEC
        meaning = meaning_of(code)
        said = f", which means: {meaning.meaning}" if known else "; its log tells more (container script)"
        exit_code = ExitCode(code) if known else ExitCode.BUG
        return Cause(exit_code, meaning.reason, f"the script ({name}) exited with {code}{said}", step=self.saved_step)


def _hang(seconds: float, step: int | None) -> Cause:
    after = "" if step is None else f" after step {step}"
    said = (
        f"the script reported no progress and wrote no file for {seconds:.0f} s{after}; where that is usual, FINETUNE_HANG_SECONDS in pod.env "
        "allows more"
    )
    return Cause(ExitCode.HANG, Reason.HANG, said, step=step)


def _say(text: str) -> None:
    print(text, flush=True)
