"""What a rank does when its watchdog has seen no step for too long: tell the pod's process what it knows, wait for its verdict, and leave.

The rank that notices is seldom the one that hangs: its peers wait for that one in a collective call. So nobody accuses itself at once. Each rank
writes how many collective calls it has begun, and the pod's process compares (hang_watch.py).
"""

from __future__ import annotations

import faulthandler
import json
import os
import time
from collections.abc import Callable
from typing import Any, Final

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.reasons import Reason
from finetune_trainer.rank_files import HangNotice, RankError, RankPromise, RunDirectory

VERDICT_SECONDS: Final = 120.0
"""How long a rank waits for the pod's process, which waits for other ranks and dumps the stacks of all. Without a verdict it tells what it knows."""
RENEWAL_SECONDS: Final = 1.0
ENTRIES_KEPT: Final = 500
"""Of the flight recorder's last collective calls: about 250 KB."""


class Promise:
    """A rank's promise to speak by a time, renewed as its watchdog goes on; a rank that is stopped breaks it."""

    def __init__(self, run: RunDirectory, rank: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._rank, self._clock = run, rank, clock
        self._speaks_by = 0.0

    def renew(self, seconds: float) -> None:
        """Promise to speak within so many seconds; written when that moves by a second, not at every step."""
        speaks_by = self._clock() + seconds
        if abs(speaks_by - self._speaks_by) >= RENEWAL_SECONDS:
            self._run.write_promise(RankPromise(rank=self._rank, speaks_by=speaks_by))
            self._speaks_by = speaks_by

    def withdraw(self) -> None:
        """Promise nothing any more."""
        self._run.withdraw_promise(self._rank)


def leave_hung(
    run: RunDirectory,
    rank: int,
    step: int | None,
    seconds: float,
    *,
    verdict_seconds: float = VERDICT_SECONDS,
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Tell of a hang and end the process; called from the watchdog's thread, since the main one is stuck."""
    faulthandler.dump_traceback()
    record = flight_record()
    run.write_flight_record(rank, json.dumps(record).encode())
    noticed = time.time()
    run.write_notice(
        HangNotice(rank=rank, time=noticed, step=step, seconds=seconds, collectives=collectives_begun(record))
    )
    deadline = time.monotonic() + verdict_seconds
    while (verdict := run.read_verdict()) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if verdict is None:
        run.write_error(
            RankError(
                rank=rank,
                time=noticed,
                exit_code=ExitCode.HANG,
                reason=Reason.HANG,
                message=f"no step was finished for {seconds:.0f} s; the log shows where every thread stood",
                step=step,
            )
        )
    leave(int(verdict.exit_code if verdict else ExitCode.HANG))


def flight_record() -> dict[str, Any]:
    """Return what torch's flight recorder knows: NCCL's own if there is one, else the one that also gloo fills (torch 2.13).

    A file of it is what `torchfrtrace` and the PyTorch tutorial on the flight recorder call a JSON dump, shortened to its last entries.
    """
    from torch._C import _distributed_c10d as torch_calls

    recorder: Any = torch_calls  # the stubs lack both functions
    record: dict[str, Any] = {}
    for dump in (recorder._dump_nccl_trace_json, recorder._dump_fr_trace_json):
        record = json.loads(dump())
        if record.get("entries"):
            break
    return {**record, "entries": record.get("entries", [])[-ENTRIES_KEPT:]}


def collectives_begun(record: dict[str, Any]) -> int:
    """Return how many collective calls a rank has begun in all its groups; groups that only some ranks are in make ranks incomparable."""
    return sum(max(0, int(group["last_enqueued_collective"])) for group in record.get("pg_status", {}).values())
