"""The pod's process looks after ranks that hang: which one it is, where all of them stand, and their end.

A rank that is stuck in Python or in a collective call says so itself (hang_notice.py). One that was stopped by a signal, or whose main thread
keeps the interpreter's lock, cannot: it misses the time by which it promised to speak. Stacks are read from outside by py-spy, which needs no
help of the process that it looks at: `process_vm_readv` is open to processes of one user, also under the runtime's default seccomp profile and
without capabilities. Where it is not (a stricter profile, Yama's scope 2), the dump says so and has what /proc tells; each rank that could
speak has printed its own stacks to its log.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_trainer.rank_files import HangNotice, HangVerdict, RankError, RunDirectory

LOOK_SECONDS: Final = 1.0
OVERDUE_SECONDS: Final = 30.0
"""After the time by which a rank's own watchdog would have spoken: how long until it counts as one that cannot."""
NOTICE_SECONDS: Final = 15.0
"""How long the other ranks have to notice the hang as well: they made their last step at the same time."""
DUMP_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Patience:
    """How long is waited for what; tests have less."""

    look: float = LOOK_SECONDS
    overdue: float = OVERDUE_SECONDS
    notice: float = NOTICE_SECONDS
    dump: float = DUMP_SECONDS


@dataclass(frozen=True)
class Process:
    """What /proc tells of a rank's process."""

    rank: int
    process: int
    state: str
    """Such as `T (stopped)`; empty when it is gone."""
    waits_in: str
    """The kernel function that its main thread sleeps in, where it may be read."""

    @property
    def is_stopped(self) -> bool:
        """It was stopped by a signal or a tracer, and does nothing until it is told to go on."""
        return self.state[:1] in ("T", "t")


def verdict_of(notices: Sequence[HangNotice], processes: Sequence[Process], pods: int = 1) -> HangVerdict:
    """Return which rank of a pod hangs, pure: from what ranks have said and what their processes look like.

    A rank that said nothing hangs. When all have spoken, it is the one that has begun fewer collective calls than another: its peers wait for
    it. When all have begun the same, none is named: they wait in one call, for the network or, where there are other `pods`, for one of their
    ranks. Then this pod has only lost a peer, and the operator takes what another one names as the cause.
    """
    spoken = {notice.rank: notice for notice in notices}
    first = min(notices, key=lambda notice: notice.time, default=None)
    step = max((notice.step for notice in notices if notice.step is not None), default=None)
    after = "before the first step" if step is None else f"after step {step}"
    waited = f"no step was finished for {first.seconds:.0f} s {after}" if first else f"no rank has spoken {after}"
    silent = [process for process in processes if process.rank not in spoken]
    if silent:
        # A stopped process first: one that is merely slow to answer may be among the silent.
        found = min(silent, key=lambda process: (not process.is_stopped, process.rank))
        why = (
            f"its process is stopped by a signal, state {found.state}"
            if found.is_stopped
            else f"its process does not answer, state {found.state or 'gone'}"
        )
        return HangVerdict(rank=found.rank, step=step, message=f"{waited}: rank {found.rank} hangs ({why})")
    counts = {notice.collectives for notice in notices}
    if len(counts) == 1:
        said = f"{waited}, and every rank of this pod waits in the same collective call; the stacks show where"
        code = ExitCode.HANG if pods == 1 else ExitCode.PEER_LOST
        return HangVerdict(rank=None, step=step, message=said, exit_code=code)
    behind = min(notices, key=lambda notice: (notice.collectives, notice.rank))
    return HangVerdict(
        rank=behind.rank,
        step=step,
        message=f"{waited}: rank {behind.rank} hangs (it has begun {behind.collectives} collective calls, another {max(counts)}); its stacks "
        "show where",
    )


class HangWatch:
    """Watches one pod's ranks from a thread until the first verdict or `stop`."""

    def __init__(
        self,
        run: RunDirectory,
        ranks: Callable[[], Sequence[tuple[int, int]]],
        patience: Patience | None = None,
        *,
        pods: int = 1,
    ) -> None:
        self._run, self._ranks, self._patience, self._pods = run, ranks, patience or Patience(), pods
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-watch", daemon=True)

    def start(self) -> HangWatch:
        """Watch from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Watch no longer, but finish what has begun."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._patience.look):
            if self._run.notices() or self._is_overdue():
                self._judge()
                return

    def _is_overdue(self) -> bool:
        latest = time.monotonic() - self._patience.overdue
        return any(promise.speaks_by < latest for promise in self._run.promises())

    def _judge(self) -> None:
        ranks = self._ranks()
        deadline = time.monotonic() + self._patience.notice
        while len(self._run.notices()) < len(ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        notices = self._run.notices()
        processes = [look_at(rank, process) for rank, process in ranks]
        for process in processes:
            self._run.write_stacks(process.rank, stacks_of(process, self._patience.dump))
        verdict = verdict_of(notices, processes, self._pods)
        print(f"hang: {verdict.message}", flush=True)
        named = verdict.rank if verdict.rank is not None else min((rank for rank, _ in ranks), default=0)
        self._run.write_error(
            RankError(
                rank=named,
                time=min((notice.time for notice in notices), default=time.time()),
                exit_code=verdict.exit_code,
                reason=meaning_of(verdict.exit_code).reason,
                message=verdict.message,
                step=verdict.step,
            )
        )
        self._run.write_verdict(verdict)
        spoken = {notice.rank for notice in notices}
        for process in processes:
            if process.rank not in spoken and process.state:
                _kill(process.process)  # it does not hear SIGTERM, and torchrun would wait 30 s for it


def look_at(rank: int, process: int) -> Process:
    """Return what /proc tells of a process."""
    folder = Path("/proc", str(process))
    try:
        lines = (folder / "status").read_text().splitlines()
        state = next((line.partition(":")[2].strip() for line in lines if line.startswith("State:")), "")
    except OSError:
        return Process(rank, process, "", "")
    try:
        waits_in = (folder / "wchan").read_text().strip("0\n")
    except OSError:
        waits_in = ""
    return Process(rank, process, state, waits_in)


def stacks_of(process: Process, seconds: float) -> bytes:
    """Return where every thread of a process stands, as text; where that cannot be read, why not."""
    head = f"rank {process.rank}, process {process.process}: state {process.state or 'gone'}"
    if process.waits_in:
        head += f", main thread in {process.waits_in}"
    program = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    # Nothing is paused: a stopped process cannot be, and what hangs stands still anyway.
    command = [program, "dump", "--nonblocking", "--pid", str(process.process)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        found = done.stdout if done.returncode == 0 else b"py-spy cannot read its stacks: " + done.stderr[-500:]
    except (OSError, subprocess.TimeoutExpired) as error:
        found = f"py-spy cannot read its stacks: {type(error).__name__}".encode()
    return head.encode() + b"\n" + found.rstrip() + b"\n"


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
