"""What every tracker can do, and what it is told: numbers of a step, or of an evaluation after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from finetune_operator.api.model import ReadModel
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import EvaluationEvent, StepEvent

Kind = Literal["train", "eval"]
KINDS: Final[tuple[Kind, ...]] = ("train", "eval")


@dataclass(frozen=True)
class Record:
    """The numbers of one step, or of the evaluation that followed it."""

    kind: Kind
    step: int
    values: Mapping[str, float]
    """By name, without the kind."""

    @property
    def named(self) -> dict[str, float]:
        """The numbers as trackers show them: `train/loss`, `eval/loss`."""
        return {f"{self.kind}/{name}": value for name, value in self.values.items()}


Told = Mapping[Kind, int]
"""The last step of each kind that a tracker has been told by earlier attempts; steps up to it are not told twice."""


class Tracker(Protocol):
    """One tracker. Any exception ends it, and nothing else: it is called from a thread of its own."""

    @property
    def name(self) -> str:
        """What logs and the bucket call it."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where it leaves files for the bucket; None: it leaves none."""
        ...

    def open(self, told: Told) -> Told:
        """Begin or go on, and return what the tracker knows of earlier attempts: `told`, or better."""
        ...

    def tell(self, records: tuple[Record, ...]) -> None:
        """Take numbers, in order."""
        ...

    def flush(self) -> bool:
        """Write what is held back, and return whether all that was told is safe once `folder` is uploaded."""
        ...

    def close(self, ended: Literal["finished", "failed"]) -> None:
        """Say how the attempt has ended and let go of everything."""
        ...


def record_of(event: ReadModel) -> Record | None:
    """Return the numbers of a run event; None where it has none for trackers. A number that is not finite is left out: servers refuse it."""
    if isinstance(event, StepEvent):
        values = {
            "loss": event.loss,
            "learning_rate": event.learning_rate,
            "gradient_norm": event.gradient_norm,
            "tokens": event.tokens,
            "step_seconds": event.seconds,
            **event.measures,
        }
        return Record("train", event.step, _finite(values))
    if isinstance(event, EvaluationEvent):
        fields = event.model_dump(exclude={"event", "attempt", "step", "seconds"})
        nested = [value for value in fields.values() if isinstance(value, dict)]
        flat = {name: value for part in (fields, *nested) for name, value in part.items()}
        return Record("eval", event.step, _finite(flat))
    return None


def _finite(values: Mapping[str, object]) -> dict[str, float]:
    numbers = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if abs(value) < float("inf")}


def settings_of(attempt: AttemptFile) -> dict[str, str | int | float]:
    """Return what a run is known by in its tracker: names and numbers of spec and plan, never rows or secrets."""
    spec, plan = attempt.spec, attempt.plan
    return {
        "objective": spec.objective.value,
        "model": spec.model.uri,
        "model_revision": attempt.inspection.model.revision,
        "dataset": attempt.inspection.dataset.uri,
        "method": spec.tuning.method.value,
        "learning_rate": spec.learning_rate,
        "schedule": spec.training.schedule,
        "optimizer": spec.training.optimizer.value,
        "precision": spec.training.precision,
        "seed": spec.training.seed,
        "max_length": plan.max_length,
        "total_steps": plan.total_steps,
        "global_batch_size": plan.global_batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_accumulation": plan.gradient_accumulation,
        "strategy": plan.strategy.value,
        "processes": plan.processes,
        "gpu": plan.gpu_product or plan.accelerator,
        "trainable_parameters": plan.trainable_parameters,
        "total_parameters": plan.total_parameters,
    }
