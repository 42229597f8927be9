"""What a running attempt tells beside its progress reports: one JSON object per line, for `finetune run`, tests and reports.

The trainer's rank 0 appends to the file that RUN_EVENTS_VARIABLE names; without the variable nothing is written.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.manifest import FileEntry
from finetune_operator.api.model import ReadModel

RUN_EVENTS_VARIABLE: Final = "FINETUNE_RUN_EVENTS"


class StepEvent(ReadModel):
    """One optimizer step was finished."""

    event: Literal["step"] = "step"
    attempt: int
    step: int
    total_steps: int
    loss: float = Field(description="Token-weighted mean over all ranks.")
    learning_rate: float
    gradient_norm: float | None = None
    tokens: int = Field(0, description="Tokens of all ranks in this step, padding not counted.")
    seconds: float = 0.0
    measures: dict[str, float] = Field(
        default_factory=dict, description="What was measured beside the loss, by name (finetune_operator.api.measures)."
    )


class EvaluationEvent(ReadModel):
    """The evaluation rows were looked at."""

    event: Literal["evaluation"] = "evaluation"
    attempt: int
    step: int
    loss: float = Field(
        description="Mean over all counted tokens (objectives that count none: over all rows) of all ranks."
    )
    seconds: float = 0.0
    measures: dict[str, float] = Field(
        default_factory=dict, description="What was measured beside the loss, by name (finetune_operator.api.measures)."
    )


class EvaluatingEvent(ReadModel):
    """The evaluation after the training has come so far; at most one a second."""

    event: Literal["evaluating"] = "evaluating"
    attempt: int
    rows: int = Field(
        description="Rows that were measured: each once per model and per metric that looks at rows by itself."
    )
    total_rows: int = Field(description="In all, as far as is known.")


class EvaluatedEvent(ReadModel):
    """The finished model was measured beside its base model."""

    event: Literal["evaluated"] = "evaluated"
    evaluated: Evaluated


class CheckpointEvent(ReadModel):
    """A checkpoint was committed (its manifest is written and its files verified), or an existing one was examined on start."""

    event: Literal["checkpoint"] = "checkpoint"
    attempt: int
    step: int
    uri: str
    verified: bool
    bytes: int
    seconds: float = Field(0.0, description="From the start of the save to the commit.")
    stall_seconds: float = Field(0.0, description="Part of them in which rank 0 made no step.")
    problem: str = Field("", description="Why it was rejected, when it did not verify.")


class ResumeEvent(ReadModel):
    """The attempt goes on from a checkpoint."""

    event: Literal["resume"] = "resume"
    attempt: int
    step: int
    uri: str


class MemoryEvent(ReadModel):
    """Measured peak of one rank, told at its end."""

    event: Literal["memory"] = "memory"
    attempt: int
    rank: int
    bytes: int = Field(description="Highest reserved GPU memory, or highest resident set (VmHWM) on CPU.")


class PublishEvent(ReadModel):
    """The model is published."""

    event: Literal["publish"] = "publish"
    uri: str
    files: tuple[FileEntry, ...] = Field(description="What the model's manifest lists.")
    destinations: tuple[str, ...] = Field((), description="Where else the model is.")


_AnyEvent = (
    StepEvent
    | EvaluationEvent
    | EvaluatingEvent
    | EvaluatedEvent
    | CheckpointEvent
    | ResumeEvent
    | MemoryEvent
    | PublishEvent
)
RunEvent = Annotated[_AnyEvent, Field(discriminator="event")]
RUN_EVENT: Final[TypeAdapter[_AnyEvent]] = TypeAdapter(RunEvent)
"""Reads one line: `RUN_EVENT.validate_json(line)`."""
