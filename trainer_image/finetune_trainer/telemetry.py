"""One place that hears what a rank does and tells it on: metrics, run events, progress reports, and the state file that `launch` reads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from finetune_operator.api.constants import NODE_VARIABLE
from finetune_operator.api.plan import AttemptFile, Phase
from finetune_operator.api.progress import TrainerStatus
from finetune_operator.api.run_events import CheckpointEvent, EvaluationEvent, MemoryEvent, ResumeEvent, StepEvent
from finetune_operator.api.time_spent import LostCause, TimeSpent
from finetune_trainer.attempt import Place
from finetune_trainer.events import EventLog
from finetune_trainer.measure import Memory, flops_per_token
from finetune_trainer.metrics import RankMetrics
from finetune_trainer.rank_files import RankState, RunDirectory
from finetune_trainer.report import Reporter, https_sender, trainer_status
from finetune_trainer.stragglers import Straggler
from finetune_trainer.trackers.trackers import Trackers

STATE_SECONDS: Final = 1.0
_SMOOTHING: Final = 0.8


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step was like."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    seconds: float
    data_wait_seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)
    """By name (finetune_operator.api.measures)."""


@dataclass(frozen=True)
class Trained:
    """Steps since the first one, which compiles kernels and fills caches: what the reported speed is the mean of."""

    tokens: int = 0
    seconds: float = 0.0

    def after(self, record: StepRecord) -> Trained:
        """Return the sum with one more step."""
        return Trained(self.tokens + record.tokens, self.seconds + record.seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """Of all ranks; None before a step has taken time."""
        return self.tokens / self.seconds if self.seconds > 0 else None


def node_name() -> str:
    """Return the node that this process runs on, as Kubernetes names it; elsewhere the machine's name."""
    return os.environ.get(NODE_VARIABLE) or socket.gethostname()


class Telemetry:
    """The voice of one rank; only rank 0 writes events and reports."""

    def __init__(self, attempt: AttemptFile, place: Place, run: RunDirectory, *, started: float) -> None:
        self.metrics = RankMetrics(attempt, place.rank)
        self._attempt = attempt
        self._place = place
        self._run = run
        self._started = started
        self._events = EventLog() if place.is_first else EventLog({})
        send = https_sender(attempt) if place.is_first else None
        self._reporter = Reporter(send, failed=lambda: self.metrics.count("report_failures")) if send else None
        self._lock = threading.Lock()
        self._state = RankState(rank=place.rank, process=os.getpid())
        self._written = 0.0
        self._first_step = True
        self._last: StepRecord | None = None
        self._pace: float | None = None
        self._trained = Trained()
        self._rejected = 0
        self._evaluation: dict[str, float] = {}
        self._productive = 0.0
        self._first_step_time: float | None = None
        self._straggler: Straggler | None = None
        self._nodes: Sequence[str] = [node_name()] * place.world_size
        self._trackers: Trackers | None = None
        self._trackers_failing: frozenset[str] = frozenset()
        self.phase = Phase.LOAD
        self.metrics.set("total_steps", attempt.plan.total_steps)
        self._write_state()

    def know_nodes(self, nodes: Sequence[str]) -> None:
        """Hear on which node each rank runs."""
        self._nodes = nodes

    def track(self, folder: Path, step: int) -> None:
        """Begin to feed the trackers, whose files lie in `folder` until they are uploaded; the training goes on after `step`."""
        if self._place.is_first:
            self._trackers = Trackers(self._attempt, folder, step, on_change=self._on_trackers)
            self._events.listeners.append(self._trackers.hear)

    def _on_trackers(self, failing: frozenset[str]) -> None:
        """Hear which trackers do not work; called from their threads."""
        if failing - self._trackers_failing:
            self.metrics.count("tracker_failures")
        self._trackers_failing = failing
        self._report(urgent=True)

    @property
    def step(self) -> int | None:
        """The last finished step."""
        return self._state.step

    def on_step(self, record: StepRecord, memory: Memory) -> None:
        """Tell that a step was finished."""
        metrics, plan = self.metrics, self._attempt.plan
        per_second = record.tokens / record.seconds if record.seconds > 0 else 0.0
        for name, value in (
            ("step", record.step),
            ("loss", record.loss),
            ("learning_rate", record.learning_rate),
            ("gradient_norm", record.gradient_norm),
            ("step_seconds", record.seconds),
            ("data_wait_seconds", record.data_wait_seconds),
            ("tokens_per_second", per_second),
        ):
            if value is not None:
                metrics.set(name, value)
        for name, value in record.measures.items():
            metrics.measure(name, value)
        if plan.gpu_tflops is not None:
            work = per_second * flops_per_token(plan.total_parameters, plan.trainable_parameters)
            metrics.set("model_flops_utilization", work / (plan.gpu_tflops * 1e12 * plan.processes))
        metrics.count("tokens", record.tokens)
        if record.step <= self._attempt.reached_step:
            metrics.badput(LostCause.REPLAY, record.seconds)
        else:
            metrics.badput(LostCause.DATA, record.data_wait_seconds)
            self._productive += max(0.0, record.seconds - record.data_wait_seconds)
        metrics.set_memory(memory)
        if self._first_step:
            metrics.set("start_seconds", time.monotonic() - self._started)
            self._first_step_time = time.time()
        self._pace = (
            record.seconds if self._pace is None else _SMOOTHING * self._pace + (1 - _SMOOTHING) * record.seconds
        )
        self._last = record
        if not self._first_step:
            self._trained = self._trained.after(record)
        self._events.write(
            StepEvent(
                attempt=self._attempt.attempt,
                step=record.step,
                total_steps=plan.total_steps,
                loss=record.loss,
                learning_rate=record.learning_rate,
                gradient_norm=record.gradient_norm,
                tokens=record.tokens,
                seconds=record.seconds,
                measures=dict(record.measures),
            )
        )
        with self._lock:
            self._state = self._state.model_copy(update={"step": record.step, "peak_memory_bytes": memory.peak})
        if self._first_step or time.monotonic() - self._written >= STATE_SECONDS:
            self._write_state()
        self._report(urgent=self._first_step)
        self._first_step = False

    def on_evaluation(self, step: int, loss: float, measures: Mapping[str, float], seconds: float) -> None:
        """Tell the loss and the measures of the evaluation rows."""
        self.metrics.set("eval_loss", loss)
        for name, value in measures.items():
            self.metrics.evaluation_measure(name, value)
        self.metrics.badput(LostCause.EVALUATION, seconds)
        self._evaluation = {"loss": loss, **measures}
        event = EvaluationEvent(
            attempt=self._attempt.attempt, step=step, loss=loss, seconds=seconds, measures=dict(measures)
        )
        self._events.write(event)
        if self._place.is_first:
            told = "".join(f", {name} {value:.4g}" for name, value in measures.items())
            print(f"evaluation after step {step}: loss {loss:.6g}{told}, {seconds:.2f} s", flush=True)
        self._report(urgent=True)

    def on_commit(self, event: CheckpointEvent) -> None:
        """Tell that a checkpoint was committed; called from the upload thread."""
        self._events.write(event)
        self.metrics.count("checkpoints")
        self.metrics.set("checkpoint_step", event.step)
        self.metrics.set("checkpoint_seconds", event.seconds)
        self.metrics.set("checkpoint_bytes", event.bytes)
        print(
            f"checkpoint of step {event.step}: {event.bytes} bytes at {event.uri} in {event.seconds:.2f} s, "
            f"{event.stall_seconds:.2f} s of it without a step",
            flush=True,
        )
        with self._lock:
            self._state = self._state.model_copy(update={"checkpoint_step": event.step})
        self._write_state()
        self._report(urgent=True)

    def on_rejected(self, event: CheckpointEvent) -> None:
        """Tell that a checkpoint did not verify."""
        self._rejected += 1
        self._events.write(event)
        self.metrics.count("checkpoints_rejected")
        print(f"checkpoint of step {event.step} at {event.uri} is not used: {event.problem}", flush=True)
        self._report(urgent=True)

    def on_peers(self, own: Straggler, slowest: Straggler | None) -> None:
        """Tell how this rank compares with its peers, and on rank 0 which one they all wait for."""
        self.metrics.set("own_seconds", own.own_seconds)
        self.metrics.set("slowness_ratio", own.ratio)
        before, self._straggler = self._straggler, slowest
        if not self._place.is_first or (before and before.rank) == (slowest and slowest.rank):
            return
        if slowest is not None:
            print(
                f"rank {slowest.rank} on node {self._nodes[slowest.rank]} is slower than its peers: it takes {slowest.own_seconds:.3g} s by itself "
                f"in a step, they take {slowest.usual_seconds:.3g} s; all wait for it in {slowest.share:.0%} of the time",
                flush=True,
            )
        elif before is not None:
            print(f"rank {before.rank} on node {self._nodes[before.rank]} is as fast as its peers again", flush=True)
        self._report(urgent=True)

    def on_resume(self, event: ResumeEvent) -> None:
        """Tell which checkpoint the attempt goes on from."""
        self._events.write(event)
        print(f"resuming after step {event.step} from {event.uri}", flush=True)
        with self._lock:
            self._state = self._state.model_copy(update={"step": event.step, "checkpoint_step": event.step})
        self._write_state()

    def on_memory(self, rank: int, peak: int) -> None:
        """Tell the peak of any rank at the end."""
        self._events.write(MemoryEvent(attempt=self._attempt.attempt, rank=rank, bytes=peak))

    def close(self, memory: Memory | None = None) -> None:
        """Write the last state and send the last report."""
        if memory is not None:
            with self._lock:
                self._state = self._state.model_copy(update={"peak_memory_bytes": memory.peak})
        self._write_state()
        if self._trackers is not None:
            self._trackers.close("failed" if memory is None else "finished")
        if self._reporter is not None:
            status = self._status()
            self._run.write_last_report(status)
            self._reporter.update(status, urgent=True)
            self._reporter.close()

    def _write_state(self) -> None:
        with self._lock:
            self._written = time.monotonic()
            self._state = self._state.model_copy(update={"time": self._time_spent()})
            self._run.write_state(self._state)

    def _time_spent(self) -> TimeSpent:
        lost = {cause: round(seconds, 3) for cause, seconds in self.metrics.lost.items()}
        return TimeSpent(lost=lost, productive=round(self._productive, 3), first_step_time=self._first_step_time)

    def _report(self, *, urgent: bool) -> None:
        if self._reporter is not None:
            self._reporter.update(self._status(), urgent=urgent)

    def _status(self) -> TrainerStatus:
        state, last, plan = self._state, self._last, self._attempt.plan
        step = state.step or 0
        return trainer_status(
            now=datetime.now(UTC),
            attempt=self._attempt.attempt,
            step=step,
            total_steps=plan.total_steps,
            loss=last.loss if last else None,
            evaluation=self._evaluation,
            tokens_per_second=self._trained.tokens_per_second
            or (Trained().after(last).tokens_per_second if last else None),
            remaining_seconds=None if self._pace is None else self._pace * (plan.total_steps - step),
            peak_memory_bytes=state.peak_memory_bytes,
            checkpoint_step=state.checkpoint_step,
            checkpoints_rejected=self._rejected,
            time_spent=self._time_spent(),
            straggler=self._straggler,
            trackers_failing=self._trackers_failing,
        )
