"""A GPU runs out of memory: what the rank tells, and how the attempt with the smaller plan goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import Phase
from finetune_operator.api.run_events import CheckpointEvent, ResumeEvent
from finetune_trainer.measure import Memory
from finetune_trainer.memory_shortage import requested_bytes, shortage_of
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

FULL: dict[str, Any] = {"tuning": {"method": "full"}, "checkpoint": {"every": "2steps"}}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB", 2.5 * 2**30),
        ("CUDA out of memory. Tried to allocate 512.00 MiB.", 512 * 2**20),
        ("HIP out of memory. Tried to allocate 20.00 KiB", 20 * 2**10),
        ("CUDA out of memory. Tried to allocate 512 B", 512),
        ("CUDA error: out of memory", 0),
    ],
)
def test_the_request_is_read_from_what_torch_says(text: str, size: float) -> None:
    assert requested_bytes(text) == size


def test_what_was_held_and_requested_is_told_with_its_phase() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB")
    told = shortage_of(error, Phase.BACKWARD, Memory(allocated=5, reserved=6, peak=9), held_bytes=7)
    assert (told.allocated_bytes, told.reserved_bytes, told.held_bytes) == (5, 6, 7)
    assert (told.requested_bytes, told.phase) == (2**30, Phase.BACKWARD)


def test_an_attempt_with_smaller_micro_batches_goes_on_from_the_checkpoint_with_the_same_losses(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    large = tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=2, total_steps=6)
    small = tiny_plan(strategy=Strategy.FSDP, processes=2, micro_batch_size=1, gradient_accumulation=2, total_steps=6)
    undisturbed = ranks.run(make_attempt(large, output="undisturbed", **FULL), tmp_path / "run")
    failed = ranks.run(make_attempt(large, **FULL), tmp_path / "failed", probes=("exhaust:1:4",))
    replanned = make_attempt(small.model_copy(update={"replans": 1}), attempt=2, **FULL)
    resumed = ranks.run(replanned, tmp_path / "resumed")

    assert failed.statuses == (ExitCode.PEER_LOST, ExitCode.GPU_OUT_OF_MEMORY), failed.log()
    (error,) = (error for error in failed.run.errors() if error.exit_code is ExitCode.GPU_OUT_OF_MEMORY)
    assert error.memory_shortage is not None
    assert error.memory_shortage.phase is Phase.OPTIMIZER_STEP
    assert error.memory_shortage.requested_bytes == round(1.5 * 2**30)
    assert resumed.statuses == (0, 0), resumed.log()
    assert any(isinstance(event, ResumeEvent) and event.step == 2 for event in resumed.events)
    after = {step: loss for step, loss in undisturbed.losses.items() if step > 2}
    assert resumed.losses == pytest.approx(after, abs=1e-5)


def test_a_replan_that_cannot_resume_what_the_old_strategy_wrote_starts_afresh_and_says_so(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    whole = tiny_plan(micro_batch_size=4, total_steps=4)
    sharded = tiny_plan(strategy=Strategy.ZERO2, processes=2, micro_batch_size=2, total_steps=4)
    failed = ranks.run(make_attempt(whole, **FULL), tmp_path / "failed", probes=("exhaust:0:4",))
    replanned = make_attempt(sharded.model_copy(update={"replans": 1}), attempt=2, **FULL)
    afresh = ranks.run(replanned, tmp_path / "afresh")

    assert failed.statuses == (ExitCode.GPU_OUT_OF_MEMORY,)
    assert afresh.statuses == (0, 0), afresh.log()
    assert sorted(afresh.losses) == [1, 2, 3, 4]
    problems = [event.problem for event in afresh.events if isinstance(event, CheckpointEvent) and not event.verified]
    assert problems == [
        "it was written with strategy single and the plan has zero2; DeepSpeed's states are read by DeepSpeed alone, those of ZeRO-3 by ZeRO-3, "
        "because a GPU ran out of memory: it starts afresh"
    ]
