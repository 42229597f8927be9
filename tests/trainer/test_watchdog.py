"""A rank that is stuck is noticed, one that works is not."""

from __future__ import annotations

import threading
import time

from finetune_trainer.watchdog import Watchdog


def test_a_rank_without_beats_is_called_hung() -> None:
    hung = threading.Event()
    Watchdog(0.05, on_hang=lambda seconds: hung.set()).start()

    assert hung.wait(5)


def test_beats_and_a_stop_keep_it_quiet() -> None:
    hung = threading.Event()
    watchdog = Watchdog(0.5, on_hang=lambda seconds: hung.set())
    watchdog.start()
    for _ in range(8):
        time.sleep(0.1)
        watchdog.beat()
    watchdog.stop()

    assert not hung.wait(0.7)
