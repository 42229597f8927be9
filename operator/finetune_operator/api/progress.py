"""What trainers report while they run (the body of Kubeflow's KEP-2779) and what a container says when it ends."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.model import ReadModel
from finetune_operator.api.plan import Phase
from finetune_operator.api.reasons import Reason
from finetune_operator.api.time_spent import TimeSpent

METRIC_STEP: Final = "step"
METRIC_TOTAL_STEPS: Final = "total_steps"
METRIC_LOSS: Final = "loss"
EVALUATION_PREFIX: Final = "eval_"
"""Before `loss` and the measures (finetune_operator.api.measures) of the last evaluation."""
METRIC_TOKENS_PER_SECOND: Final = "tokens_per_second"
"""Of all ranks, padding not counted: the mean of the attempt's steps without the first."""
METRIC_PEAK_MEMORY_BYTES: Final = "peak_memory_bytes"
METRIC_CHECKPOINT_STEP: Final = "checkpoint_step"
METRIC_CHECKPOINTS_REJECTED: Final = "checkpoints_rejected"
METRIC_SLOW_RANK: Final = "slow_rank"
"""The rank that its peers wait for; absent while there is none."""
METRIC_SLOW_RANK_RATIO: Final = "slow_rank_ratio"
"""How many times as long as its peers it takes for its own part of a step."""
METRIC_SLOW_RANK_SHARE: Final = "slow_rank_share"
"""The part of each step in which its peers wait for it, 0 to 1."""
METRIC_TRACKERS_FAILING: Final = "trackers_failing"
"""Names of the trackers that do not work, parted by commas; absent while all do."""
METRIC_EVALUATED_ROWS: Final = "evaluated_rows"
METRIC_EVALUATION_ROWS: Final = "evaluation_rows"
"""How far the evaluation after the training is, of how many rows: each counts once per model and per metric that looks at rows by itself."""
METRIC_ATTEMPT: Final = "attempt"
"""Names under which our trainer reports in `trainerStatus.metrics`; an unmodified transformers image reports others, which are kept as they are."""

STEP_NAMES: Final = (METRIC_STEP, "current_step")
"""Transformers' own callback says current_step."""
REPORT_LIMIT_BYTES: Final = 64 * 1024
"""Of the body of POST …/progress."""
LARGEST_COUNT: Final = 2**53

TERMINATION_MESSAGE_LIMIT_BYTES: Final = 4096
"""The kubelet cuts a termination message after this many bytes."""


class Metric(ReadModel):
    """One named number, as text (KEP-2779)."""

    name: str = Field(max_length=100)
    value: str = Field(max_length=100)


class TrainerStatus(ReadModel):
    """The trainer's own account of its progress."""

    last_updated_time: str | None = Field(None, description="RFC 3339.")
    progress_percentage: int | None = Field(None, ge=0, le=100)
    estimated_remaining_seconds: int | None = Field(None, ge=0)
    metrics: tuple[Metric, ...] = Field((), max_length=256)

    def metric(self, name: str) -> str | None:
        """Return the value of the metric of that name, or None."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)

    @property
    def step(self) -> int | None:
        """The last step that was finished, None where the report does not say."""
        return next((value for name in STEP_NAMES if (value := whole_number(self.metric(name))) is not None), None)

    @property
    def total_steps(self) -> int | None:
        """Of the training, None where the report does not say."""
        return whole_number(self.metric(METRIC_TOTAL_STEPS))


def number(text: str | None) -> float | None:
    """Return the number that a metric's text is, None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def whole_number(text: str | None) -> int | None:
    """Return the count that a metric's text is, None where it is none or nothing that can be counted so far."""
    value = number(text)
    return int(value) if value is not None and 0 <= value <= LARGEST_COUNT else None


class ProgressReport(ReadModel):
    """The body of POST …/progress."""

    trainer_status: TrainerStatus


class MemoryShortage(ReadModel):
    """What a process held when it could not get more GPU memory; all in bytes."""

    held_bytes: int = Field(
        description="What it held of the GPU: the allocator's reserved bytes, CUDA context, NCCL, and what others hold there."
    )
    allocated_bytes: int = Field(description="Live tensors of it.")
    reserved_bytes: int = Field(description="What torch's caching allocator held of it.")
    requested_bytes: int = Field(0, description="What it could not get; 0 when the error does not say.")
    phase: Phase | None = Field(None, description="Where in the step it was.")


class TerminationMessage(ReadModel):
    """The one JSON line in /dev/termination-log: how a container ended and why. At most 4,096 bytes."""

    reason: Reason
    exit_code: int
    message: str = Field(
        description="One or two sentences for people: what, where, what to do. Never row content or secrets."
    )
    step: int | None = Field(None, description="Last optimizer step that was finished.")
    rank: int | None = Field(None, description="The rank that failed first.")
    checkpoint_step: int | None = Field(None, description="Step of the newest verified checkpoint.")
    peak_memory_bytes: int | None = Field(
        None, description="Highest measured peak of this pod's ranks: GPU memory, or resident set on CPU."
    )
    memory_shortage: MemoryShortage | None = Field(None, description="GPUOutOfMemory: what was held and requested.")
    time: TimeSpent | None = Field(None, description="What this pod's first rank did with its time.")
    log_uri: str | None = Field(None, description="Where the last 200 log lines of each rank are.")
    evaluation: Evaluated | None = Field(None, description="What was measured after the training.")
    result_uri: str | None = Field(None, description="publish: the folder of the finished model.")
    destinations: tuple[str, ...] = Field((), description="publish: where else it is.")

    def to_line(self) -> str:
        """Return the line as it is written, its message shortened so that the whole stays below the kubelet's limit."""
        line = self.model_dump_json(by_alias=True, exclude_none=True)
        excess = len(line.encode()) - TERMINATION_MESSAGE_LIMIT_BYTES
        if excess <= 0:
            return line
        kept = self.message.encode()[: max(0, len(self.message.encode()) - excess - 400)].decode(errors="ignore")
        return self.model_copy(update={"message": f"{kept} […]"}).model_dump_json(by_alias=True, exclude_none=True)
