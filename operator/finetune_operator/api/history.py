"""What finished jobs have measured beside what was predicted for them: the values of the history that corrects later plans.

The operator keeps them in one ConfigMap of its own namespace. No names of jobs, users, models or data are in them, only what kind of training it was.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_operator.api.compatibility import Checkpointing, Objective, Offload, Strategy
from finetune_operator.api.methods import Method
from finetune_operator.api.model import ReadModel


class RunKind(ReadModel):
    """What makes two trainings comparable: their predictions err in the same direction."""

    objective: Objective = Objective.SFT
    model_type: str = Field(max_length=63, description="Family, as config.json names it, such as llama.")
    parameters: int = Field(ge=0, description="Of the whole model, rounded to two digits.")
    method: Method
    settings: str = Field(
        "",
        max_length=63,
        description="What else of tuning and training decides memory, such as dora; empty for the defaults.",
    )
    precision: str = Field(max_length=16)
    strategy: Strategy
    checkpointing: Checkpointing
    offload: Offload = Offload.NONE
    accelerator: Literal["gpu", "cpu"]
    gpu_product: str | None = Field(None, max_length=63, description="Absent with accelerator cpu.")
    processes: int = Field(ge=1)
    length: int = Field(ge=1, description="Tokens of the longest sequence, rounded up to a power of two.")
    estimator: int = Field(
        0, description="Version of the formulas that predicted: errors of other formulas say nothing."
    )


class Prediction(ReadModel):
    """What the formulas alone said of a plan, before history corrected it: what measurements are compared with."""

    kind: RunKind
    expected_bytes: int = Field(gt=0, description="Peak memory of one process.")
    tokens_per_second: float | None = Field(None, gt=0, description="Of all processes.")


class MeasuredRun(ReadModel):
    """One finished job: measured over predicted."""

    id: str = Field(max_length=32, description="Digest of the job's uid: a job counts once.")
    finished_at: str = Field(max_length=32, description="RFC 3339, UTC.")
    memory_ratio: float | None = Field(None, description="Measured peak of a process / the formulas' expected peak.")
    throughput_ratio: float | None = Field(None, description="Measured tokens per second / the formulas' own.")


class KindRecord(ReadModel):
    """The runs of one kind, oldest first."""

    kind: RunKind
    runs: tuple[MeasuredRun, ...]


class History(ReadModel):
    """What finished jobs have taught; bounded in size, see planner/history.py."""

    records: tuple[KindRecord, ...] = ()

    @property
    def runs(self) -> int:
        """Runs of all kinds together."""
        return sum(len(record.runs) for record in self.records)


EMPTY_HISTORY = History()
