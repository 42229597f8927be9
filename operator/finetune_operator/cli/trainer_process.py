"""The trainer as a subprocess: what the operator does with pods, `finetune run` does with processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetune_operator.api.constants import (
    CONFIG_MAP_VARIABLE,
    MODEL_CACHE_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    WORK_DIRECTORY_VARIABLE,
)
from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.run_events import RUN_EVENT, RUN_EVENTS_VARIABLE, RunEvent


@dataclass(frozen=True)
class Ending:
    """How one trainer process ended."""

    exit_code: int
    message: TerminationMessage
    log: Path


class EventReader:
    """Reads whole lines that were appended to a run events file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_events(self) -> list[RunEvent]:
        """Return the events that are new; a line that is still being written waits for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._position += len(complete)
        return [RUN_EVENT.validate_json(line) for line in complete.splitlines()]


class TrainerProcess:
    """Runs `python -m finetune_trainer …` with its files below one folder, and follows its run events."""

    def __init__(self, folder: Path, model_cache: Path | None = None, config_maps: Path | None = None) -> None:
        self.folder = folder
        self._model_cache, self._config_maps = model_cache, config_maps
        self.events = folder / "events.jsonl"

    def run(
        self,
        name: str,
        *arguments: str,
        on_event: Callable[[RunEvent], None] = lambda _: None,
    ) -> Ending:
        """Run one subcommand to its end; `name` names its log and termination message.

        SIGINT reaches the child by itself, since both are in the terminal's foreground group: the trainer saves and ends, and so do we.
        """
        log, termination = self.folder / f"{name}.log", self.folder / f"{name}.termination"
        termination.unlink(missing_ok=True)
        environment = {
            **os.environ,
            RUN_EVENTS_VARIABLE: str(self.events),
            TERMINATION_LOG_VARIABLE: str(termination),
            WORK_DIRECTORY_VARIABLE: str(self.folder / "work"),
            "PYTHONUNBUFFERED": "1",
            **({MODEL_CACHE_VARIABLE: str(self._model_cache)} if self._model_cache else {}),
            **({CONFIG_MAP_VARIABLE: str(self._config_maps)} if self._config_maps else {}),
        }
        reader = EventReader(self.events)
        reader.new_events()
        with log.open("wb") as output:
            process = self._start(arguments, environment, output)
            while process.poll() is None:
                for event in reader.new_events():
                    on_event(event)
                time.sleep(0.1)
        for event in reader.new_events():
            on_event(event)
        return Ending(process.returncode, read_termination(termination, process.returncode, log), log)

    def _start(
        self, arguments: tuple[str, ...], environment: dict[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "finetune_trainer", *arguments]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def read_termination(path: Path, exit_code: int, log: Path) -> TerminationMessage:
    """Return the process's own account of its end, or one made from its exit code when it left none."""
    if path.exists() and (text := path.read_text().strip()):
        return TerminationMessage.model_validate_json(text)
    code = exit_code if exit_code >= 0 else 128 - exit_code
    if code == ExitCode.KILLED:  # no kubelet here that could tell the two apart
        text = f"killed from outside (SIGKILL), by hand or by the kernel for want of memory; see {log}"
        return TerminationMessage(reason=Reason.RANK_KILLED, exit_code=code, message=text)
    meaning = meaning_of(code)
    return TerminationMessage(reason=meaning.reason, exit_code=code, message=f"{meaning.meaning}; see {log}")
