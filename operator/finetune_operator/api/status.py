"""What the operator shows: the status of a FineTuneJob. Written as a whole by server-side apply, `progress` by its own field manager."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_operator.api.inspection import Origin
from finetune_operator.api.model import ReadModel
from finetune_operator.api.progress import MemoryShortage, Metric
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.time_spent import TimeAccount


class Condition(ReadModel):
    """A metav1.Condition."""

    type: ConditionType = Field(description="What is said.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Reason = Field(description="Why, from the closed table in docs/reference/conditions.md.")
    message: str = Field("", max_length=32768, description="For people.")
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="When status last changed."
    )
    observed_generation: int = Field(0, ge=0, description="The metadata.generation that this is about.")


class ResumeStatus(ReadModel):
    """The checkpoint of another job that this one starts from."""

    uri: str = Field(description="Its folder.")
    job: str = Field(description="<namespace>/<name> of the job that wrote it.")
    step: int = Field(description="Optimizer steps that were finished; the first attempt goes on after them.")


class SourceStatus(ReadModel):
    """A job that this one names by ftj://."""

    job: str = Field(description="Its name.")
    uid: str = Field(description="Its uid; a job that was created anew has another.")
    uri: str = Field(description="Where its result is.")


class InspectionStatus(ReadModel):
    """The inspection in short."""

    architecture: str = Field(description="Such as LlamaForCausalLM.")
    parameters: int = Field(description="Elements of all tensors.")
    revision: str = Field("", description="Resolved commit of an hf:// model.")
    format: str = Field(description="Detected or given format of the data set.")
    rows: int = Field(description="Usable rows.")
    dropped: int = Field(0, description="Unusable rows; `problems` names the first of them.")
    problems: list[str] = Field(
        default_factory=list, max_length=10, description="The first unusable rows as file:line: reason."
    )
    tokens: int = Field(description="Tokens of all usable rows.")
    longest: int = Field(description="Tokens of the longest row.")
    report_uri: str | None = Field(None, description="The full report.")
    resume: ResumeStatus | None = Field(None, description="What checkpoint.resumeFrom has found.")
    lineage: Origin | None = Field(None, description="Where model.uri is the result of another job.")


class PlanStatus(ReadModel):
    """The plan in short, and afterwards how good it was."""

    gpus: int = Field(description="GPUs in all; 0 with accelerator cpu.")
    gpu_product: str | None = Field(None, description="GPU type.")
    pods: int = Field(description="Training pods.")
    processes: int = Field(description="Training processes in all.")
    strategy: str = Field(description="single, ddp, fsdp, zero1, zero2, zero3.")
    micro_batch_size: int = Field(description="Sequences per process at a time.")
    gradient_accumulation: int = Field(description="Micro-batches per step and process.")
    gradient_checkpointing: str = Field(description="none or full.")
    offload: str = Field(
        "none",
        description="What lives in host memory between uses: none, optimizer or parameters; or on local disk: nvme.",
    )
    total_steps: int = Field(description="Optimizer steps in all.")
    packed_sequences: int | None = Field(
        None, description="Sequences of an epoch, where training.packing joins rows; absent where it does not."
    )
    trainable_parameters: int = Field(description="Elements that are trained.")
    expected_gib: str = Field(alias="expectedGiB", description="Expected peak memory per process, GiB.")
    upper_gib: str = Field(alias="upperGiB", description="Upper bound of it that the planner used, GiB.")
    measured_gib: str | None = Field(
        None, alias="measuredGiB", description="Highest measured peak of a process under this plan, GiB."
    )
    step_seconds: str | None = Field(None, description="Expected seconds of an optimizer step, such as 1.82.")
    tokens_per_second: int | None = Field(
        None, description="Expected tokens per second of all processes together, padding included."
    )
    duration: str | None = Field(None, description="Expected time of all steps, such as 3h05m.")
    gpu_hours: str | None = Field(None, alias="gpuHours", description="Expected GPU-hours of all steps, such as 24.7.")
    cost: str | None = Field(
        None, description="What they cost by the operator's price table, such as 61.75 EUR; absent without a price."
    )
    reasons: list[str] = Field(default_factory=list, max_length=20, description="Why this plan.")


class AttemptStatus(ReadModel):
    """One attempt."""

    number: int = Field(description="From 1.")
    result: Literal["Running", "Suspended", "Succeeded", "Failed"] = Field(description="How it stands.")
    reason: Reason | None = Field(None, description="First cause of its end.")
    message: str = Field("", max_length=4096, description="The first cause in words.")
    exit_code: int | None = Field(None, description="Exit code of the first cause.")
    charged: bool = Field(False, description="Counts against run.retries.")
    start_time: str | None = Field(
        None, json_schema_extra={"format": "date-time"}, description="When its Job was created."
    )
    completion_time: str | None = Field(None, json_schema_extra={"format": "date-time"}, description="When it ended.")
    first_step_time: str | None = Field(
        None,
        json_schema_extra={"format": "date-time"},
        description="When its first step was finished; told when it has ended.",
    )
    last_step: int | None = Field(None, description="Last step that was finished.")
    time: TimeAccount | None = Field(None, description="Where its time went; told when it has ended.")
    log_uri: str | None = Field(None, description="Where its last log lines are.")
    memory_shortage: MemoryShortage | None = Field(
        None, description="GPUOutOfMemory: what the GPU's process held and requested; the next plan keeps that free."
    )


class ProgressStatus(ReadModel):
    """The trainer's last report; at most one write per 10 s."""

    attempt: int | None = Field(None, description="The attempt that reported.")
    step: int | None = Field(None, description="Optimizer steps finished.")
    total_steps: int | None = Field(None, description="Optimizer steps in all.")
    steps: str | None = Field(None, description="step/total, for the print column.")
    percentage: int | None = Field(None, description="0 to 100.")
    evaluation: str | None = Field(
        None,
        description="Rows that the evaluation after the training has measured / in all.",
    )
    loss: str | None = Field(None, description="Training loss, as text.")
    eta: str | None = Field(None, description="Estimated time left, such as 12m.")
    estimated_remaining_seconds: int | None = Field(None, description="Estimated time left, in seconds.")
    checkpoint_step: int | None = Field(None, description="Step of the newest verified checkpoint.")
    last_updated_time: str | None = Field(
        None, json_schema_extra={"format": "date-time"}, description="When the trainer reported."
    )
    metrics: list[Metric] = Field(default_factory=list, max_length=64, description="All reported metrics.")


class ResultStatus(ReadModel):
    """The finished model."""

    uri: str = Field(description="Its folder.")
    destinations: tuple[str, ...] = Field(
        (), description="Where else it is (output.oci, output.hub), each with the digest or commit of what was sent."
    )


class EvaluatedFigure(ReadModel):
    """One number of the evaluation after the training."""

    name: str = Field(description="Such as rouge1.")
    base: str | None = Field(None, description="Of the model as it was before, such as 0.1875.")
    tuned: str = Field(description="Of the model that was trained.")
    required: str | None = Field(None, description="What evaluation.require asks of it.")


class EvaluationStatus(ReadModel):
    """The evaluation after the training: base model beside tuned model."""

    step: int = Field(description="Of the checkpoint that was measured.")
    rows: int = Field(description="Rows that it was measured on.")
    figures: list[EvaluatedFigure] = Field(
        default_factory=list,
        max_length=50,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="What was measured.",
    )


class FineTuneJobStatus(ReadModel):
    """What is known about the job."""

    observed_generation: int | None = Field(None, description="The metadata.generation that this status is about.")
    state: JobState | None = Field(None, description="The conditions in one word, for people.")
    message: str | None = Field(None, max_length=32768, description="Why the job is not running now, or what it does.")
    start_time: str | None = Field(
        None, json_schema_extra={"format": "date-time"}, description="When the first attempt was started, unsuspended."
    )
    completion_time: str | None = Field(
        None, json_schema_extra={"format": "date-time"}, description="When the job ended."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        description="Conditions, one per type.",
    )
    source: SourceStatus | None = Field(
        None, description="The job that model.uri names by ftj://, once it is complete."
    )
    sources: list[SourceStatus] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["job"]},
        description="The jobs that reward models and the teacher name by ftj://, once all are complete.",
    )
    inspection: InspectionStatus | None = Field(None, description="The inspection in short.")
    plan: PlanStatus | None = Field(None, description="The plan in short.")
    attempts: list[AttemptStatus] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
        description="The last 5 attempts, oldest first.",
    )
    time: TimeAccount | None = Field(None, description="Where the time of all attempts that have ended went.")
    progress: ProgressStatus | None = Field(None, description="The trainer's last report.")
    evaluation: EvaluationStatus | None = Field(None, description="What was measured after the training.")
    result: ResultStatus | None = Field(None, description="The finished model.")

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return the condition of that type, or None."""
        return next((condition for condition in self.conditions if condition.type is kind), None)
