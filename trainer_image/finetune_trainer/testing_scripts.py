"""A pod of a test in which a user's own script runs as a process, beside what saves it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.trainer import SCRIPT_FOLDER
from finetune_trainer.attempt import Workplace
from finetune_trainer.causes import Cause
from finetune_trainer.own_script import OwnScript
from finetune_trainer.script_process import start_locally


def scripted(attempt: AttemptFile, script: Path, number: int = 1) -> AttemptFile:
    """Return the attempt with a script of its own instead of our trainer."""
    spec = attempt.spec.to_json_dict()
    spec["trainer"] = {"image": "python:3", "command": [sys.executable, str(script)]}
    spec["checkpoint"] = {"every": "1steps"}
    return attempt.model_copy(update={"spec": type(attempt.spec).model_validate(spec), "attempt": number})


Meanwhile = Callable[["ScriptPod", "subprocess.Popen[bytes]"], object]


class ScriptPod:
    """One pod's work directory, with the script as a process beside what saves it."""

    def __init__(self, attempt: AttemptFile, folder: Path, index: int = 0) -> None:
        self.attempt, self.index = attempt, index
        self.place = Workplace.of(attempt, {"FINETUNE_WORK_DIRECTORY": str(folder)})
        self.is_stopped = False

    @property
    def folder(self) -> Path:
        """The script's folder."""
        return self.place.work / SCRIPT_FOLDER

    def run(
        self,
        meanwhile: Meanwhile | None = None,
        *,
        limits: dict[str, Any] | None = None,
        **variables: str,
    ) -> Cause:
        """Run the script to its end; `meanwhile` is asked at every look, `limits` replace those of OwnScript."""
        process = start_locally(self.attempt, self.place.work / "plan.json", self.place, {**os.environ, **variables})

        def stopped() -> bool:
            if meanwhile is not None:
                meanwhile(self, process)
            return self.is_stopped

        brief = {"look_seconds": 0.05, "quiet_seconds": 0.2, **(limits or {})}
        try:
            return OwnScript(self.attempt, self.place, self.index, stopped, **brief).run()
        finally:
            process.kill()
            process.wait()


def saved_steps(attempt: AttemptFile) -> list[int]:
    """Return the steps of the committed checkpoints, oldest first."""
    shelf = Path(attempt.checkpoint_uri.removeprefix("file://"))
    return sorted(Manifest.model_validate_json(path.read_text()).step for path in shelf.glob("step-*/*/manifest.json"))
