"""A pod that is stopped before its launcher has imported anything."""

from __future__ import annotations

import subprocess
import sys

from finetune_operator.api.exit_codes import ExitCode

_STOPPED_AT_ONCE = """
import os, signal, sys, types
launcher = types.ModuleType("finetune_trainer.launch")
launcher.launch = lambda plan: os.kill(os.getpid(), signal.SIGTERM)  # before the launcher's own handler is there
sys.modules["finetune_trainer.launch"] = launcher
from finetune_trainer.__main__ import main
sys.exit(main(["launch"]))
"""


def test_a_launcher_that_is_stopped_during_its_imports_ends_at_once_as_stopped() -> None:
    ended = subprocess.run([sys.executable, "-c", _STOPPED_AT_ONCE], timeout=110, check=False)
    assert ended.returncode == ExitCode.TERMINATED
