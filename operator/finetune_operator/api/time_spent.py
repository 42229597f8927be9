"""What time went into: the causes by which it is lost, under the same names in reports, status, metrics and docs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import Field

from finetune_operator.api.model import ReadModel


class LostCause(StrEnum):
    """What a job does with its GPUs instead of training."""

    PULL = "pull"
    IMPORT = "import"
    DOWNLOAD = "download"
    ENCODE = "encode"
    LOAD = "load"
    RESUME = "resume"
    REFERENCE = "reference"
    PROBE = "probe"
    EVALUATION = "evaluation"
    DATA = "data"
    CHECKPOINT = "checkpoint"
    REPLAY = "replay"
    OTHER = "other"


class WaitCause(StrEnum):
    """What a job waits for without GPUs."""

    QUEUE = "queue"
    RESTART = "restart"


CAUSE_MEANINGS: Final = MappingProxyType(
    {
        WaitCause.QUEUE: "From the making (or resuming) of an attempt's Job until all its pods have nodes.",
        WaitCause.RESTART: "From the end of an attempt to the making of the next one's Job.",
        LostCause.PULL: "From a pod's scheduling until the containers of all pods run: images, volumes, peers.",
        LostCause.IMPORT: "Import of libraries.",
        LostCause.DOWNLOAD: "Download and verification of the model, as far as they go on after the imports.",
        LostCause.ENCODE: "Encoding of the rows, as far as it goes on after that.",
        LostCause.LOAD: "Loading of the model.",
        LostCause.RESUME: "Finding and downloading the checkpoint to go on from.",
        LostCause.REFERENCE: "Log-probabilities of all rows under the reference model (objective dpo, where the plan says so).",
        LostCause.PROBE: "Trial of the longest batch.",
        LostCause.EVALUATION: "Measuring on the evaluation rows: the loss during the training, and all that is measured after it.",
        LostCause.DATA: "Waiting for batches.",
        LostCause.CHECKPOINT: "Steps held up by a checkpoint.",
        LostCause.REPLAY: "Steps that an earlier attempt had made already.",
        LostCause.OTHER: "The rest: start of the launcher, rendezvous, the step that was cut short, the end of the pods.",
    }
)
"""Every cause, for docs/reference/metrics.md."""
TRAINER_CAUSES: Final = tuple(cause for cause in LostCause if cause not in (LostCause.PULL, LostCause.OTHER))
"""What a rank can measure itself: the causes of `finetune_badput_seconds_total`."""


MOST_SECONDS: Final = 4e9
"""Whatever image reports it: a number beyond 127 years is none, and would not be a date."""
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]


class TimeSpent(ReadModel):
    """A rank's account of its time so far, in seconds."""

    lost: dict[str, Seconds] = Field(default_factory=dict, description="By cause.")
    productive: Seconds = Field(0.0, description="Steps made for the first time, without waiting for data.")
    first_step_time: Seconds | None = Field(None, description="When the first step was finished: Unix seconds.")

    def named(self) -> dict[str, float]:
        """Return the numbers under the names of a progress report; what is 0 or unknown is left out."""
        values = {f"{_LOST}{cause}": round(seconds, 1) for cause, seconds in self.lost.items()}
        values |= {_PRODUCTIVE: round(self.productive, 1), _FIRST_STEP: round(self.first_step_time or 0.0)}
        return {name: value for name, value in values.items() if value}


def time_spent_of(metrics: Iterable[tuple[str, str]]) -> TimeSpent | None:
    """Return the account that a progress report's metrics (name and value) hold; None where they hold none."""
    told = {name: float(value) for name, value in metrics if name.startswith((_LOST, _PRODUCTIVE, _FIRST_STEP))}
    values = {name: value for name, value in told.items() if 0 <= value <= MOST_SECONDS}
    if not values:
        return None
    lost = {name.removeprefix(_LOST): value for name, value in values.items() if name.startswith(_LOST)}
    return TimeSpent(lost=lost, productive=values.get(_PRODUCTIVE, 0.0), first_step_time=values.get(_FIRST_STEP))


_LOST: Final = "lost_seconds_"
_PRODUCTIVE: Final = "productive_seconds"
_FIRST_STEP: Final = "first_step_time"


class TimeAccount(ReadModel):
    """Where the time of ended attempts went. GPU-seconds are seconds × GPUs of the plan (with accelerator cpu × processes)."""

    productive_gpu_seconds: int = Field(
        0, alias="productiveGPUSeconds", description="GPU-seconds of steps made for the first time."
    )
    lost_gpu_seconds: dict[str, int] | None = Field(
        None,
        alias="lostGPUSeconds",
        description="GPU-seconds by what they were lost to; docs/reference/metrics.md lists the causes.",
    )
    waiting_seconds: dict[str, int] | None = Field(
        None, description="Seconds without GPUs by what was waited for: queue, restart."
    )

    def plus(self, other: TimeAccount) -> TimeAccount:
        """Return the sum of both."""
        return TimeAccount(
            productive_gpu_seconds=self.productive_gpu_seconds + other.productive_gpu_seconds,
            lost_gpu_seconds=_sum(self.lost_gpu_seconds, other.lost_gpu_seconds),
            waiting_seconds=_sum(self.waiting_seconds, other.waiting_seconds),
        )


def _sum(one: dict[str, int] | None, other: dict[str, int] | None) -> dict[str, int] | None:
    """Add; None where there is nothing, since server-side apply keeps no empty map."""
    one, other = one or {}, other or {}
    return {cause: one.get(cause, 0) + other.get(cause, 0) for cause in sorted({*one, *other})} or None
