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
from finetune_trainer.script_folder import Snapshot, look
from finetune_trainer.script_other_pods import OtherPods, OtherPodSaver, PodLimits
from finetune_trainer.script_pods import share_out
from finetune_trainer.script_progress import ProgressRelay, ProgressWatch
from finetune_trainer.script_saver import FirstPodSaver, Saver
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
    """Of the pod; each pod's folder is saved, and the first one commits (script_pods.py)."""
    stopped: Callable[[], bool]
    look_seconds: float = LOOK_SECONDS
    quiet_seconds: float = QUIET_SECONDS
    lost_seconds: float = LOST_SECONDS
    hang_limit: Callable[[Sequence[float]], float] = hang_seconds
    """Seconds without progress after which a script that has reported some hangs, from those of its last steps."""
    _events: EventLog = field(default_factory=EventLog)
    pod_limits: PodLimits | None = None
    """How long a pod waits for the others; None goes by the pod's time between SIGTERM and SIGKILL."""
    saved_step: int | None = None
    """Of the newest checkpoint that was committed, as far as this pod knows."""
    _given: Snapshot = field(default_factory=Snapshot)
    """The files that other pods have written, as they were at the start."""
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
        saver = self._saver(found)
        watch = ProgressWatch(self.hang_limit)
        relay = ProgressRelay(lambda status: watch.report(status, time.monotonic()), https_sender(self.attempt))
        try:
            (control / PROGRESS_FILE).write_text(relay.url)
            (control / KEEPER_FILE).touch()
            (control / BEGIN_FILE).touch()
            code = self._follow(control, saver, watch)
        finally:
            relay.close()
        is_saved = saver.end(self._look(), code, is_quiet=self._was_quiet)
        self._note()
        if code == 0 and not is_saved:
            said = "stopped from outside after the script had ended well, before every pod's folder was saved"
            return Cause(ExitCode.TERMINATED, Reason.TERMINATED, said)
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

    def _look(self) -> Snapshot:
        """Return what this pod has to save."""
        return look(self.folder).without(self._given)

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
            self._given = share_out(self.place.resume, folder, self.index, self.attempt.plan.pods)
            self.saved_step = found.manifest.step
            self._events.write(ResumeEvent(attempt=self.attempt.attempt, step=found.manifest.step, uri=found.uri or ""))
        return found

    def _saver(self, found: Found) -> Saver:
        attempt, pods, staged = self.attempt, self.attempt.plan.pods, self.place.staging / "script"
        storage = open_writable(attempt.checkpoint_uri)
        limits = self.pod_limits or PodLimits.within(attempt.spec.pod.termination_grace_period_seconds)
        if self.index > 0:
            return OtherPodSaver(
                storage, attempt.attempt, self.index, self.folder, staged, self.saved_step, limits, self.stopped
            )
        writer = CheckpointWriter(
            attempt,
            Place(0, 1, 0, 1),
            storage,
            Collective(1),
            start=found.start,
            verified=found.folder,
            rejected=found.rejected,
            on_commit=self._committed,
            on_failure=_say,
            on_retry=_say,
        )
        others = OtherPods(storage, pods, self.saved_step, limits) if pods > 1 else None
        every = attempt.spec.checkpoint.every
        return FirstPodSaver(
            every, self.folder, staged, writer, self._look(), lambda: self.saved_step, others, self.stopped
        )

    def _committed(self, event: CheckpointEvent) -> None:
        self.saved_step = event.step
        self._tell(event)

    def _tell(self, event: CheckpointEvent) -> None:
        self._events.write(event)
        _say(f"checkpoint of step {event.step}: {'saved' if event.verified else event.problem}")

    def _follow(self, control: Path, saver: Saver, watch: ProgressWatch) -> int:
        """Save until the script has ended; return its exit code, 137 where it was killed without a word."""
        seen, since = self._look(), time.monotonic()
        while True:
            code = self._ended(control)
            if code is not None:
                self._was_quiet = self._look() == seen and time.monotonic() - since >= self.quiet_seconds
                return code if self._hang is None else int(self._hang.exit_code)
            time.sleep(self.look_seconds)
            (control / KEEPER_FILE).touch()
            now = time.monotonic()
            current = self._look()
            if current != seen:
                seen, since = current, now
                watch.wrote(now)
            silent = watch.silent_seconds(now)
            if silent is not None and self._hang is None:
                self._hang = _hang(silent, watch.step)
                _say(f"hang: {self._hang.message}; the script is stopped")
                (control / STOP_FILE).touch()
            saver.look(current, now, is_quiet=now - since >= self.quiet_seconds)

    def _ended(self, control: Path) -> int | None:
        told = control / EXIT_FILE
        if told.exists():
            return int(told.read_text().strip() or ExitCode.BUG)
        alive = control / ALIVE_FILE
        # Without the file its container has not begun: its image may still be on its way.
        if alive.exists() and time.time() - alive.stat().st_mtime > self.lost_seconds:
            return int(ExitCode.KILLED)
        return int(ExitCode.TERMINATED) if self.stopped() and not alive.exists() else None

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
