"""Rewards for code: the completion's Python runs with the row's tests in a process of its own, with limits.

Limits are no sandbox: the code runs as the pod's user, and sees the pod's network. What it can use up (time, memory, files) is bounded, its
environment is empty, and its folder is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

SECONDS: Final = 5
"""Of processor time and of the clock, for one test."""
MEMORY_BYTES: Final = 512 * 1024**2
FILE_BYTES: Final = 1024**2
_RUN: Final = """
import resource, sys
seconds, memory, size = map(int, sys.argv[1:])
for what, limit in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CORE, 0)
):
    resource.setrlimit(what, (limit, limit))
del sys.argv[1:]
exec(compile(sys.stdin.read(), "answer", "exec"), {"__name__": "__main__"})
"""
"""Sets its own limits: between fork and exec of a process with threads nothing may run that takes a lock."""
_FENCE: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def code_in(completion: str) -> str:
    """Return the last fenced block of a completion, or all of it where it has none."""
    blocks = _FENCE.findall(completion)
    return str(blocks[-1]) if blocks else completion


def passed_share(completion: str, tests: Sequence[str]) -> float:
    """Return the share of tests (each some statements, such as an assert) that the completion's code passes; 0.0 without tests."""
    if not tests:
        return 0.0
    code = code_in(completion)
    return sum(_passes(code, test) for test in tests) / len(tests)


def _passes(code: str, test: str) -> bool:
    # Code that ends the process early would look like success: only what comes to the last line says the word.
    word = secrets.token_hex(16)
    program = f"{code}\n\n{test}\n\nimport sys as _sys\n_sys.stdout.write('\\n{word}')\n"
    with tempfile.TemporaryDirectory(prefix="unit-test-") as folder, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _RUN, str(SECONDS), str(MEMORY_BYTES), str(FILE_BYTES)],
            stdin=subprocess.PIPE,
            stdout=output,  # a file, whose size is limited: a pipe would be read into this process's memory
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(program.encode("utf-8", "replace"), timeout=SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it has started
        process.communicate()
        output.seek(max(0, output.seek(0, os.SEEK_END) - len(word)))
        return process.returncode == 0 and output.read() == word.encode()
