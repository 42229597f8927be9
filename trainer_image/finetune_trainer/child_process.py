"""A process of the pod, started by `launch`: in a session of its own, its output kept in a file and shown as the pod's."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None)  # loaded here: the child must not import between fork and exec
_PR_SET_PDEATHSIG: Final = 1


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start a process and the thread that copies its output; the thread ends with the output."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    copier = threading.Thread(target=_copy, args=(process, log), daemon=True)
    copier.start()
    return process, copier


def die_with_parent() -> None:
    """Run in the child: a session of its own, so that a terminal's Ctrl-C comes through us alone; and SIGTERM when we are killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _copy(process: subprocess.Popen[bytes], path: Path) -> None:
    with path.open("wb") as file:
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
