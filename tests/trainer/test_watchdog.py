"""A rank that is stuck is noticed, one that works is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.limits import Limits
from finetune_trainer.watchdog import LEAST_SECONDS, LONGEST_SECONDS, Watchdog, hang_seconds


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        ([], LONGEST_SECONDS),
        ([2.0, 2.0], LONGEST_SECONDS),
        ([2.0, 2.0, 2.0], LEAST_SECONDS),
        ([30.0, 30.0, 500.0], 300.0),
        ([200.0] * 5, LONGEST_SECONDS),
        ([900.0] * 5, 1800.0),
    ],
)
def test_patience_is_ten_usual_steps_within_bounds(steps: list[float], seconds: float) -> None:
    assert hang_seconds(steps) == seconds


def test_the_two_minutes_may_be_set_for_a_job() -> None:
    assert Limits.of({}).hang([2.0] * 3) == LEAST_SECONDS
    patient = Limits.of({"FINETUNE_HANG_SECONDS": "600"})
    assert patient.hang([2.0] * 3) == 600
    assert patient.hang([200.0] * 3) == LONGEST_SECONDS


@pytest.mark.parametrize("text", ["10m", "0", "-5", "nan", "inf", ""])
def test_a_patience_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(
        TrainerFailure, match=r"FINETUNE_HANG_SECONDS .* must be a number of seconds above 0"
    ) as refused:
        Limits.of({"FINETUNE_HANG_SECONDS": text})
    assert refused.value.exit_code is ExitCode.BAD_SPEC


@given(st.lists(st.floats(0.01, 5000), max_size=50))
def test_patience_always_covers_two_usual_steps_and_two_minutes(steps: list[float]) -> None:
    assert hang_seconds(steps) >= LEAST_SECONDS
    assert len(steps) < 3 or hang_seconds(steps) >= 2 * sorted(steps)[(len(steps) - 1) // 2]


def test_a_rank_without_beats_is_called_hung() -> None:
    hung = threading.Event()
    Watchdog(lambda seconds: hung.set(), limit=lambda steps: 0.05).start()

    assert hung.wait(30)


def test_beats_and_a_stop_keep_it_quiet() -> None:
    hung = threading.Event()
    watchdog = Watchdog(lambda seconds: hung.set(), limit=lambda steps: 1.5)
    watchdog.start()
    for _ in range(8):
        time.sleep(0.2)
        watchdog.beat()
    watchdog.stop()

    assert not hung.wait(1.7)


def test_finished_steps_shorten_its_patience_and_a_save_lengthens_it() -> None:
    def limit(steps: Sequence[float]) -> float:
        return steps[-1] if steps else 60.0

    told: list[float] = []
    hung = threading.Event()

    def on_hang(seconds: float) -> None:
        told.append(seconds)
        hung.set()

    watchdog = Watchdog(on_hang, limit)
    watchdog.start()
    with watchdog.saving():
        watchdog.step(0.2)
        assert not hung.wait(0.6)
    assert hung.wait(30)
    assert told == [0.2]
