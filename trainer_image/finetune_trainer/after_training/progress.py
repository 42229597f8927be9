"""How far the evaluation is, told to the operator, to Prometheus and to the file of run events.

The ranks are gone by then, and an hour without a word looks like a hang. A row counts once per model and per metric that looks at rows by itself
(answers, loss, judge, entailment, a request of a task): that is what takes the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.progress import (
    METRIC_ATTEMPT,
    METRIC_EVALUATED_ROWS,
    METRIC_EVALUATION_ROWS,
    METRIC_SLOW_RANK,
    METRIC_SLOW_RANK_RATIO,
    METRIC_SLOW_RANK_SHARE,
    METRIC_STEP,
    METRIC_TOTAL_STEPS,
    Metric,
    TrainerStatus,
)
from finetune_operator.api.run_events import EvaluatingEvent
from finetune_operator.api.time_spent import LostCause, TimeSpent
from finetune_trainer.events import EventLog
from finetune_trainer.metrics import RankMetrics
from finetune_trainer.rank_files import RankState, RunDirectory
from finetune_trainer.report import Reporter, Send, https_sender

EVENT_SECONDS: Final = 1.0
_NOT_CARRIED: Final = frozenset({METRIC_SLOW_RANK, METRIC_SLOW_RANK_RATIO, METRIC_SLOW_RANK_SHARE})
"""Of the training's last report: no rank waits for another any more."""


class EvaluationProgress:
    """Counts rows from any thread; a context manager, whose end sends the last report."""

    def __init__(
        self,
        attempt: AttemptFile,
        run: RunDirectory,
        *,
        step: int,
        started: float,
        send: Send | None = None,
        events: EventLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempt, self._run, self._clock = attempt, run, clock
        self._events = events or EventLog()
        self.metrics = RankMetrics(attempt, 0)
        send = send or https_sender(attempt)
        self._reporter = Reporter(send, failed=lambda: self.metrics.count("report_failures")) if send else None
        self._before = run.last_report() or _report_of(attempt, step)
        first = next(iter(run.states()), None)
        self._rank = first or RankState(rank=0, process=os.getpid(), step=step, checkpoint_step=step)
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._started, self._written, self._measuring = started, float("-inf"), clock()
        self.metrics.set("step", step)
        self.metrics.set("total_steps", attempt.plan.total_steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._tell(urgent=True)
        now = self._clock()
        self.metrics.badput(LostCause.EVALUATION, now - self._started)
        self._run.write_state(self._rank.model_copy(update={"time": self._time(now)}))
        if self._reporter is not None:
            self._reporter.close()

    def serve(self, port: int) -> None:
        """Serve /metrics where the first rank served it."""
        self.metrics.serve(port)

    def expect_of_both(self, rows: int) -> None:
        """Hear of rows that are to be measured of each of the two models."""
        with self._lock:
            self._total += 2 * rows
            self._tell(urgent=self._done == 0)

    def count(self, rows: int = 1) -> None:
        """Hear of rows that were measured."""
        with self._lock:
            self._done = min(self._done + rows, self._total)
            self._tell(urgent=False)

    def _tell(self, *, urgent: bool) -> None:
        self.metrics.set("evaluated_rows", self._done)
        self.metrics.set("evaluation_rows", self._total)
        now = self._clock()
        if urgent or now - self._written >= EVENT_SECONDS:
            self._written = now
            self._events.write(EvaluatingEvent(attempt=self._attempt.attempt, rows=self._done, total_rows=self._total))
        if self._reporter is not None:
            self._reporter.update(self._status(now), urgent=urgent)

    def _status(self, now: float) -> TrainerStatus:
        """Return the training's last report with what has come since: what an earlier one told would be lost without it."""
        left = (now - self._measuring) / self._done * (self._total - self._done) if self._done else None
        told = {METRIC_EVALUATED_ROWS: self._done, METRIC_EVALUATION_ROWS: self._total, **self._time(now).named()}
        kept = (metric for metric in self._before.metrics if metric.name not in {*told, *_NOT_CARRIED})
        return self._before.model_copy(
            update={
                "last_updated_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "estimated_remaining_seconds": None if left is None else round(left),
                "metrics": (*kept, *(Metric(name=name, value=str(value)) for name, value in told.items())),
            }
        )

    def _time(self, now: float) -> TimeSpent:
        """Return the rank's account with the evaluation's seconds, in which the GPUs trained nothing."""
        time_spent = self._rank.time or TimeSpent()
        seconds = time_spent.lost.get(LostCause.EVALUATION, 0.0) + now - self._started
        return time_spent.model_copy(update={"lost": {**time_spent.lost, LostCause.EVALUATION: round(seconds, 3)}})


def _report_of(attempt: AttemptFile, step: int) -> TrainerStatus:
    """Return the report of a training that an earlier attempt has done."""
    values = {METRIC_ATTEMPT: attempt.attempt, METRIC_STEP: step, METRIC_TOTAL_STEPS: attempt.plan.total_steps}
    return TrainerStatus(
        progress_percentage=min(100, step * 100 // max(1, attempt.plan.total_steps)),
        metrics=tuple(Metric(name=name, value=str(value)) for name, value in values.items()),
    )
