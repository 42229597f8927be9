"""What a machine does to a training: its disk runs full, its clock jumps, the pod's first process is killed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.run_events import CheckpointEvent, StepEvent
from finetune_trainer.failures import failure_of
from finetune_trainer.full_disk import disk_failure
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import CaseResult, RankServer


def committed(result: CaseResult) -> list[int]:
    return [event.step for event in result.events if isinstance(event, CheckpointEvent) and event.verified]


def test_a_disk_that_runs_full_ends_the_attempt_and_the_next_one_goes_on_from_the_checkpoint_before(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(total_steps=6, staging_bytes=0)  # staged on disk
    settings: dict[str, Any] = {"checkpoint": {"every": "2steps"}}

    full = ranks.run(make_attempt(plan, **settings), tmp_path / "full", probes=(f"disk:{4 * 2**20}:3",))
    resumed = ranks.run(make_attempt(plan, attempt=2, **settings), tmp_path / "resumed")

    (error,) = full.run.errors()
    assert full.statuses == (ExitCode.DISK_FULL,), full.log()
    assert error.message.startswith("the pod's local disk is full: the checkpoint of step 4 could not be written to ")
    assert committed(full) == [2]
    assert resumed.statuses == (0,), resumed.log()
    assert min(resumed.losses) == 3


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_number_and_by_text(error: Exception, tmp_path: Path) -> None:
    found = disk_failure(tmp_path / "not" / "there", "the checkpoint", error)

    assert found is not None
    assert found.exit_code is ExitCode.DISK_FULL
    assert disk_failure(tmp_path, "the checkpoint", RuntimeError("unexpected pos 64 vs 0")) is None


def test_a_disk_that_is_full_while_inputs_are_fetched_is_no_bug() -> None:
    assert failure_of(OSError(errno.ENOSPC, "No space left on device")).exit_code is ExitCode.DISK_FULL


@pytest.mark.parametrize("jump", [86400, -86400])
def test_a_clock_that_jumps_changes_no_interval_and_no_loss(
    jump: int, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(tiny_plan(total_steps=6), checkpoint={"every": "1h"})

    result = ranks.run(attempt, tmp_path / "run", probes=(f"clock:3:{jump}",), hang_seconds=60.0)

    assert result.statuses == (0,), result.log()
    assert committed(result) == [6]
    assert all(0 < event.seconds < 60 for event in result.events if isinstance(event, StepEvent))
