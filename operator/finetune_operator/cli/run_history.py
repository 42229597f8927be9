"""What finished runs on this machine have measured: one file that `finetune run` reads before it plans and adds to when a run is done.

The rules are the operator's (planner/history.py); only the place differs, since nobody has a ConfigMap here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetune_operator.api.history import EMPTY_HISTORY, History, Prediction
from finetune_operator.api.run_events import MemoryEvent, RunEvent, StepEvent
from finetune_operator.cli.plan_inputs import read_history
from finetune_operator.planner.history import FinishedRun, record


def history_in(path: Path) -> History:
    """Return what the file holds; empty where there is none yet.

    Raises:
        UnreadableManifest: there is a file, and it holds no history.
    """
    return read_history(path) if path.exists() else EMPTY_HISTORY


def remember(path: Path, run: FinishedRun) -> None:
    """Add a finished run to the file, whole or not at all; what another run has added since is read again and kept.

    Raises:
        UnreadableManifest: there is a file, and it holds no history.
        OSError: the file cannot be written.
    """
    before = history_in(path)
    after = record(before, run)
    if after == before:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    written.write_text(after.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    written.replace(path)


def finished_run(uid: str, finished_at: str, prediction: Prediction, events: list[RunEvent]) -> FinishedRun:
    """Return what a run has measured under its last plan.

    Args:
        uid: The run's; its digest is kept, so that a run counts once.
        finished_at: RFC 3339, UTC.
        prediction: What the formulas had said of the plan.
        events: Of the last attempt. The peak is that of its highest rank (bytes); tokens per second are the mean of its steps without the first
            (padding not counted), as in the trainer's own reports.
    """
    made = [event for event in events if isinstance(event, StepEvent)]
    # An attempt that found the last checkpoint trained nothing: its peak says nothing of a step.
    peaks = [event.bytes for event in events if isinstance(event, MemoryEvent) and made]
    steps = made[1:]
    seconds = sum(step.seconds for step in steps)
    return FinishedRun(
        id=hashlib.sha256(uid.encode()).hexdigest()[:16],
        finished_at=finished_at,
        prediction=prediction,
        peak_bytes=max(peaks, default=None),
        tokens_per_second=sum(step.tokens for step in steps) / seconds if seconds > 0 else None,
    )
