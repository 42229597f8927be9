"""The record of a local run: what was planned, what was measured, and what came out, as one JSON document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.plan import Plan
from finetune_operator.api.run_events import (
    CheckpointEvent,
    EvaluatedEvent,
    MemoryEvent,
    PublishEvent,
    ResumeEvent,
    RunEvent,
    StepEvent,
)
from finetune_operator.api.time_spent import TimeSpent


@dataclass
class RunRecord:
    """Collects the run events of all attempts."""

    steps: list[StepEvent] = field(default_factory=list)
    checkpoints: list[CheckpointEvent] = field(default_factory=list)
    resumes: list[ResumeEvent] = field(default_factory=list)
    memory: list[MemoryEvent] = field(default_factory=list)
    published: PublishEvent | None = None
    evaluated: Evaluated | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    lost_seconds: dict[str, float] = field(default_factory=dict)
    """By cause, of the first rank in all attempts."""

    def add(self, event: RunEvent) -> None:
        """Remember one event."""
        match event:
            case StepEvent():
                self.steps.append(event)
            case CheckpointEvent():
                self.checkpoints.append(event)
            case ResumeEvent():
                self.resumes.append(event)
            case MemoryEvent():
                self.memory.append(event)
            case EvaluatedEvent():
                self.evaluated = event.evaluated
            case PublishEvent():
                self.published = event

    def add_time(self, spent: TimeSpent | None) -> None:
        """Add what an attempt did with its time; None where it has left no word."""
        for cause, seconds in (spent.lost if spent else {}).items():
            self.lost_seconds[cause] = self.lost_seconds.get(cause, 0.0) + seconds

    def peak_bytes_by_rank(self) -> dict[int, int]:
        """Return the highest measured peak of each rank over all attempts."""
        peaks: dict[int, int] = {}
        for event in self.memory:
            peaks[event.rank] = max(event.bytes, peaks.get(event.rank, 0))
        return peaks

    def last_step(self) -> int:
        """Return the last step that any attempt has made; 0 before the first."""
        return max((event.step for event in self.steps), default=0)

    def last_attempt(self) -> list[RunEvent]:
        """Return the steps and peaks of the newest attempt; an earlier one may have run under another plan."""
        measured: list[StepEvent | MemoryEvent] = [*self.steps, *self.memory]
        newest = max((event.attempt for event in measured), default=0)
        return [event for event in measured if event.attempt == newest]

    def final_losses(self) -> list[StepEvent]:
        """Return one event per step: where a resumed attempt made a step again, its second time."""
        return [event for _, event in sorted({event.step: event for event in self.steps}.items())]

    def report(self, plan: Plan) -> dict[str, Any]:
        """Return the JSON report; `planned` and `measured` memory are bytes per rank."""
        estimate = plan.memory
        peaks = self.peak_bytes_by_rank()
        ranks = range(plan.processes)
        return {
            "plan": {
                **plan.to_json_dict(),
                "peakBytes": [
                    {"rank": r, "expected": estimate.expected_bytes, "upper": estimate.upper_bytes} for r in ranks
                ],
            },
            "measured": {
                "peakBytes": [{"rank": rank, "bytes": peaks[rank]} for rank in sorted(peaks)],
                "resumedFromSteps": [event.step for event in self.resumes],
            },
            "losses": [{"step": e.step, "loss": e.loss, "attempt": e.attempt} for e in self.steps],
            "measures": [{"step": e.step, "attempt": e.attempt, **e.measures} for e in self.steps if e.measures],
            "checkpoints": [
                {"step": e.step, "attempt": e.attempt, "uri": e.uri, "verified": e.verified, "bytes": e.bytes}
                for e in self.checkpoints
            ],
            "evaluation": self.evaluated.to_json_dict() if self.evaluated else {},
            "artifact": self._artifact(),
            "metrics": self._metrics(plan),
        }

    def _artifact(self) -> dict[str, Any]:
        if self.published is None:
            return {}
        return {
            "uri": self.published.uri,
            "destinations": list(self.published.destinations),
            "files": [entry.to_json_dict() for entry in self.published.files],
        }

    def _metrics(self, plan: Plan) -> dict[str, float]:
        metrics = {f"seconds_{name}": round(value, 2) for name, value in self.seconds.items()}
        metrics |= {f"lost_seconds_{cause}": round(value, 2) for cause, value in self.lost_seconds.items()}
        metrics["attempts"] = max((event.attempt for event in self.steps), default=0)
        losses = self.final_losses()
        if losses:
            metrics["first_loss"] = losses[0].loss
            metrics["final_loss"] = losses[-1].loss
            busy = sum(event.seconds for event in self.steps)
            if busy > 0:
                metrics["tokens_per_second"] = round(sum(event.tokens for event in self.steps) / busy, 1)
        if peaks := self.peak_bytes_by_rank():
            metrics["memory_measured_over_expected"] = round(max(peaks.values()) / plan.memory.expected_bytes, 4)
        return metrics
