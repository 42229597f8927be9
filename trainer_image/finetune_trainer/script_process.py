"""The pod's process of a user's own script: beside the script's container in a pod, and the script's parent where `finetune run` starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from finetune_operator.api.constants import NODE_VARIABLE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.trainer import CONTROL, PROGRESS_TOKEN_VARIABLE, script_environment
from finetune_trainer.attempt import Workplace
from finetune_trainer.causes import Cause
from finetune_trainer.failures import TrainerFailure, calls_of, failure_of
from finetune_trainer.limits import Limits
from finetune_trainer.own_script import OwnScript


class Stop(Protocol):
    """SIGTERM and SIGINT, heard for the script."""

    requested: bool
    """One of them has come."""

    def watch(self, process: subprocess.Popen[bytes], ranks: int, rank_processes: Callable[[], list[int]]) -> None:
        """Pass them on to a process."""
        ...


def run_script(attempt: AttemptFile, plan_path: Path, place: Workplace, index: int, stop: Stop) -> Cause:
    """Restore and save a user's own script until its end; outside a pod it is a process of ours."""
    script = OwnScript(attempt, place, index, stopped=lambda: stop.requested)
    process = None
    try:
        script.hang_limit = Limits.of(os.environ).hang
        if NODE_VARIABLE not in os.environ:  # in a pod the script has a container of its own
            process = start_locally(attempt, plan_path, place, os.environ)
            stop.watch(process, 1, list)
        return script.run()
    except (TrainerFailure, OSError) as error:
        script.cancel()
        failure = failure_of(error)
        if failure.exit_code is ExitCode.BUG:
            print(calls_of(error), flush=True)
        return Cause(failure.exit_code, failure.reason, failure.message)
    finally:
        if process is not None:
            process.wait()


def start_locally(
    attempt: AttemptFile, plan_path: Path, place: Workplace, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the script in a session of its own, told what its container would be."""
    if attempt.spec.trainer is None:
        raise AssertionError("only jobs with spec.trainer have a script")
    told = script_environment(
        str(place.work),
        str(plan_path.resolve()),
        pods=1,
        processes_per_pod=attempt.plan.processes_per_pod,
        host=attempt.rendezvous_host,
        port=attempt.rendezvous_port,
    )
    control = place.work / CONTROL
    shutil.rmtree(control, ignore_errors=True)
    control.mkdir(parents=True)
    # transformers reports nothing without a token; nobody here asks for it.
    token = control / "token"
    token.write_text("none is needed")
    told[PROGRESS_TOKEN_VARIABLE] = str(token)
    return subprocess.Popen(attempt.spec.trainer.arguments, env={**environment, **told}, start_new_session=True)
