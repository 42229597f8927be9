"""The last lines of every rank's log and the cause, kept in the bucket: pods and their logs are gone soon after a failure."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from finetune_operator.api.exit_codes import ExitCode, meaning_of
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.causes import Cause
from finetune_trainer.failures import LOST_PEER_TEXTS
from finetune_trainer.rank_files import RankDeath, RankError, RunDirectory
from finetune_trainer.storage import StorageSettings, open_writable
from finetune_trainer.storage_errors import StorageError

LINES_KEPT: Final = 200
EVALUATION_LOG: Final = "evaluation.log"
"""Of the evaluation after the training."""
_TAIL_BYTES: Final = 256 * 1024


def keep_logs(attempt: AttemptFile, run: RunDirectory, index: int, cause: Cause) -> str | None:
    """Write the tails below `<checkpoint_uri>/logs/<attempt>/` and return that location; None when the store refuses them."""
    # The pod is about to end and may be in its grace period: this must not take the library's usual minutes.
    quick = StorageSettings(request_timeout=timedelta(seconds=20), retries=2, retry_timeout=timedelta(seconds=20))
    try:
        storage = open_writable(f"{attempt.checkpoint_uri}/logs/{attempt.attempt}", quick)
        for rank, path in rank_logs(run.logs, index * attempt.plan.processes_per_pod):
            storage.put_small(f"rank-{rank:05d}.log", tail(path))
        if (evaluation := run.logs / EVALUATION_LOG).exists():
            storage.put_small(EVALUATION_LOG, tail(evaluation))
        for path in run.evidence():
            storage.put_small(path.name, path.read_bytes())
        summary = {
            "pod": index,
            "exitCode": int(cause.exit_code),
            "reason": cause.reason,
            "message": cause.message,
            "rank": cause.rank,
            "step": cause.step,
        }
        storage.put_small(f"cause-{index:05d}.json", json.dumps(summary).encode())
    except StorageError as error:
        print(f"the log was not kept: {error}", flush=True)
        return None
    return storage.uri


def rank_logs(logs: Path, first_rank: int) -> list[tuple[int, Path]]:
    """Return the ranks of this pod with their logs: one file for a single process, else torchrun's `<run>/attempt_0/<local rank>/`."""
    single = logs / "rank-0.log"
    if single.exists():
        return [(first_rank, single)]
    found = [(int(path.parent.name), path) for path in logs.glob("*/attempt_0/*/stdout.log")]
    return [(first_rank + local, path) for local, path in sorted(found)]


def aborted_for_a_peer(deaths: Sequence[RankDeath], run: RunDirectory, index: int, ranks: int) -> list[RankError]:
    """Return lost peers for ranks that NCCL's watchdog thread aborted: it ends the process by SIGABRT, past any exception of ours."""
    logs = dict(rank_logs(run.logs, index * ranks))
    found = []
    for death in deaths:
        if death.status != -signal.SIGABRT or death.rank not in logs:
            continue
        text = tail(logs[death.rank]).decode(errors="replace")
        said = next((words for words in LOST_PEER_TEXTS if words in text), None)
        if said is not None:
            meaning = meaning_of(ExitCode.PEER_LOST)
            found.append(
                RankError(
                    rank=death.rank,
                    time=death.time,
                    exit_code=ExitCode.PEER_LOST,
                    reason=meaning.reason,
                    message=f"another rank went away: {said}",
                )
            )
    return found


def tail(path: Path, lines: int = LINES_KEPT) -> bytes:
    """Return the last lines of a file, at most 256 KiB."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        return b"\n".join(file.read().splitlines()[-lines:]) + b"\n"
