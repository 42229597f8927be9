"""The command of a training pod as a process of a test: `python -m finetune_trainer launch`, its files in one folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

START_SECONDS: Final = 300
"""Imports take 15 s, and minutes on a machine that does other things."""


class Launched:
    """A running `launch`, with its files in `folder`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def wait_for_step(self, step: int) -> None:
        """Wait until that step is made."""
        self.wait_for_event(f'"step":{step},')

    def wait_for_event(self, words: str) -> None:
        """Wait for a run event whose JSON has these words."""
        events = self.folder / "events.jsonl"
        self._wait(lambda: events.exists() and words in events.read_text())

    def wait_for_port(self, port: int) -> None:
        """Wait until somebody listens there."""

        def listens() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
            return True

        self._wait(listens)

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the termination message."""
        code = self.process.wait(START_SECONDS)
        return code, json.loads((self.folder / "termination").read_text())

    def _wait(self, over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not over():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.05)


def launch(folder: Path, plan: Path) -> Launched:
    """Start the command of a training pod."""
    variables = {
        "FINETUNE_WORK_DIRECTORY": str(folder / "work"),
        "FINETUNE_TERMINATION_LOG": str(folder / "termination"),
        "FINETUNE_RUN_EVENTS": str(folder / "events.jsonl"),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "launch", "--plan", str(plan)],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
    return Launched(process, folder)
