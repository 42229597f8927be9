"""When a training counts as diverged, and that it leaves the checkpoints from before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.run_events import CheckpointEvent
from finetune_trainer.divergence import FEWEST_STEPS, STEPS_OF_EXPLOSION, LossGuard, LossWatch
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer


def watch_of(*losses: float) -> LossWatch:
    watch = LossWatch()
    for loss in losses:
        watch = watch.after(loss)
    return watch


@pytest.mark.parametrize(("usual", "limit"), [(0.01, 2.01), (1.0, 3.0), (2.0, 6.0), (4.0, 9.0), (8.0, 13.0)])
def test_the_limit_is_three_times_the_median_at_least_two_and_at_most_five_above_it(usual: float, limit: float) -> None:
    assert watch_of(*[usual] * FEWEST_STEPS).limit == pytest.approx(limit)
    assert watch_of(*[usual] * (FEWEST_STEPS - 1)).limit is None


def test_a_loss_that_stays_high_for_ten_steps_has_exploded_and_does_not_become_usual() -> None:
    watch = watch_of(*[1.5] * 50, *[11.0] * (STEPS_OF_EXPLOSION - 1))
    assert (watch.has_exploded, watch.streak, watch.limit) == (False, 9, 4.5)
    assert watch.after(10.5).has_exploded
    assert not watch.after(1.6).streak


@given(st.lists(st.floats(0.05, 4.0), min_size=30, max_size=200), st.sets(st.integers(0, 199)))
def test_losses_that_fall_wander_and_spike_for_up_to_nine_steps_are_no_explosion(
    losses: list[float], spikes: set[int]
) -> None:
    watch, spike = LossWatch(), 0
    for step, loss in enumerate(losses):
        if spike == 0 and step in spikes:
            spike = STEPS_OF_EXPLOSION - 1
        watch = watch.after(50.0 if spike else min(loss, 2.0))
        spike = max(0, spike - 1)
        if spike == 0:
            watch = watch.after(0.05)
        assert not watch.has_exploded


def test_a_resumed_watch_goes_on_from_the_losses_of_the_checkpoint() -> None:
    guard = LossGuard()
    guard.resume([1.0] * 40 + [20.0] * 7)
    for step in (48, 49, 50):
        guard.hear(step, 20.0)

    assert guard.watch.has_exploded
    assert guard.last_usual_step == 0


@pytest.mark.parametrize("stops", [True, False])
def test_a_loss_that_explodes_ends_the_job_and_leaves_a_checkpoint_from_before(
    stops: bool, ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    attempt = make_attempt(
        tiny_plan(micro_batch_size=1, total_steps=45),
        checkpoint={"every": "2steps", "keep": 1},
        training={"stopOnDivergence": stops},
        tuning={"method": "full"},
    )

    result = ranks.run(attempt, tmp_path / "run", probes=("explode:26",))

    written = [event.step for event in result.events if isinstance(event, CheckpointEvent)]
    kept = [int(path.parts[-3][5:]) for path in (tmp_path / "out").glob("checkpoints/*/step-*/*/manifest.json")]
    if stops:
        (error,) = result.run.errors()
        assert (result.statuses, error.exit_code) == ((ExitCode.DIVERGED,), ExitCode.DIVERGED)
        assert "for 10 steps, up to step 36" in error.message
        assert "lower training.learningRate" in error.message
        assert max(written) <= 26  # that one was written before its loss was known
        assert min(kept) < 26
    else:
        assert result.statuses == (0,), result.log()
        assert kept == [45]
