"""The plan of a job and the file that one attempt runs by: `plan.json` in ConfigMap `<job>-<attempt>`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.constants import METRICS_PORT, RENDEZVOUS_PORT
from finetune_operator.api.history import Prediction
from finetune_operator.api.inspection import InspectionReport, ProgressEndpoint
from finetune_operator.api.model import ReadModel
from finetune_operator.api.spec import FineTuneJobSpec

GIB: Final = 2**30


class Component(StrEnum):
    """What memory is used for."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    TEMPORARIES = "temporaries"
    COMMUNICATION = "communication"
    RUNTIME = "runtime"
    FRAGMENTATION = "fragmentation"
    """What the caching allocator holds beyond live tensors; on the CPU the holes of the heap."""


class Phase(StrEnum):
    """The points of a run at which memory can be at its highest."""

    LOAD = "load"
    BACKWARD = "backward"
    BACKWARD_END = "backward-end"
    OPTIMIZER_STEP = "optimizer-step"
    EVALUATION = "evaluation"
    """A forward pass over evaluation rows; only where a run evaluates."""
    SAVE = "save"
    """Gathering of sharded weights for the export; only with FSDP and ZeRO-3."""
    GENERATION = "generation"
    """Sampling of completions; only with GRPO."""


class PhaseMemory(ReadModel):
    """Bytes of one process at one phase, by component; the sum is the phase's total."""

    phase: Phase
    components: dict[Component, int]

    @property
    def total(self) -> int:
        """Bytes of all components together."""
        return sum(self.components.values())


class MemoryRange(ReadModel):
    """Bytes at the peak: what is expected, and what it may be at most."""

    expected_bytes: int
    upper_bytes: int


class MemoryEstimate(ReadModel):
    """Peak memory of one process: of its GPU, or with accelerator cpu its resident set. The peak is the highest phase, never a sum of phases."""

    expected_bytes: int
    upper_bytes: int = Field(
        description="What the planner keeps below the capacity; expected plus what the estimate may miss."
    )
    allocated: MemoryRange = Field(description="Live tensors: what torch.cuda.max_memory_allocated shows.")
    reserved: MemoryRange = Field(
        description="What torch's caching allocator holds: what torch.cuda.max_memory_reserved shows."
    )
    phases: tuple[PhaseMemory, ...]
    peak_phase: Phase

    @property
    def device(self) -> MemoryRange:
        """The whole process as nvidia-smi shows it, CUDA context and NCCL included: expected_bytes and upper_bytes."""
        return MemoryRange(expected_bytes=self.expected_bytes, upper_bytes=self.upper_bytes)


class PodResources(ReadModel):
    """What one training pod asks for."""

    cpu_millicores: int
    memory_bytes: int = Field(description="Host memory, including shared memory.")
    shared_memory_bytes: int = Field(description="Size of /dev/shm.")
    ephemeral_storage_bytes: int = Field(
        description="Local disk for model, encoded rows and staged checkpoints; 0 asks for none."
    )
    staging_bytes: int = Field(
        0, description="Host memory, of memory_bytes, for a checkpoint on its way; 0: it is staged on local disk."
    )
    gpus: int = 0


class Throughput(ReadModel):
    """How fast the plan is, by the roofline and what finished jobs have taught; times and money are estimates, not promises."""

    step_seconds: float = Field(description="Of one optimizer step with batches of usual length.")
    tokens_per_second: float = Field(description="Of all processes together, padding included.")
    total_seconds: float | None = Field(
        None,
        description="All steps together; absent while their number is unknown. Loading and checkpoints come on top.",
    )
    gpu_hours: float | None = Field(None, description="total_seconds × GPUs; absent on CPUs.")
    cost: float | None = Field(None, description="GPU-hours × the configured price; absent without one.")
    currency: str = Field("", description="Of cost.")


class Plan(ReadModel):
    """Everything that was decided for a job; a pure function of spec, inspection, inventory and history."""

    accelerator: Literal["gpu", "cpu"]
    gpu_product: str | None = None
    gpu_memory_bytes: int | None = Field(None, description="Of one GPU, as the node label says.")
    gpu_tflops: float | None = Field(
        None,
        description="Dense TFLOP/s of one GPU in bfloat16 by the catalogue, what the trainer's MFU is a share of; absent for unknown types.",
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="What pods ask for; another one with MIG strategy mixed.")
    processes: int = Field(description="Training processes (ranks) in all; one per GPU.")
    pods: int
    processes_per_pod: int
    strategy: Strategy
    micro_batch_size: int
    gradient_accumulation: int
    global_batch_size: int = Field(description="micro_batch_size × gradient_accumulation × processes.")
    gradient_checkpointing: Checkpointing
    offload: Offload = Field(
        Offload.NONE, description="What lives in host memory between uses, or on local disk (nvme)."
    )
    max_length: int
    rows: int = Field(description="Usable rows of the data set; 0 when it was not inspected.")
    packed: bool = Field(False, description="Rows are joined to sequences (training.packing).")
    precomputed_reference: bool = Field(
        False,
        description="The reference's log-probabilities of all rows are computed before the first step, not in every step (objective dpo).",
    )
    sequences: int = Field(0, description="What an epoch has: packed sequences, or rows; 0 when it is not known.")
    steps_per_epoch: int
    total_steps: int
    trainable_parameters: int
    total_parameters: int
    memory: MemoryEstimate
    resources: PodResources
    throughput: Throughput | None = Field(None, description="Speed, duration and money.")
    prediction: Prediction | None = Field(
        None,
        description="What the formulas alone say, before history corrects them; measurements are compared with it.",
    )
    reasons: tuple[str, ...] = Field(
        (), description="Why this plan: what was binding, and what else would have fitted."
    )
    assumptions: tuple[str, ...] = Field((), description="What was assumed because nothing was inspected.")
    evaluation_batch_size: int = Field(
        0,
        description="Rows that pass through the model together in the evaluation after the training; 0: there is none.",
    )
    replans: int = Field(0, description="How many attempts before this plan ran out of GPU memory.")
    kept_free_bytes: int = Field(0, description="What they lacked: left unused on every GPU, beyond the usual reserve.")

    host_replans: int = Field(
        0, description="How many attempts before this plan ran out of host memory; each time its pods ask for more."
    )

    @property
    def memory_key(self) -> str:
        """What decides the memory of a step, in words; two plans with the same need the same."""
        parts = (self.gpu_product or self.accelerator, self.processes, self.strategy, self.micro_batch_size)
        packed = ("packed",) if self.packed else ()
        offload = () if self.offload is Offload.NONE else (f"{self.offload} offloaded",)
        reference = ("reference precomputed",) if self.precomputed_reference else ()
        settings = (self.gradient_checkpointing, self.max_length, *packed, *offload, *reference)
        return "/".join(str(part) for part in (*parts, *settings))

    @property
    def gpus(self) -> int:
        """GPUs in all; 0 with accelerator cpu."""
        return self.processes if self.accelerator == "gpu" else 0


class PlanError(ReadModel):
    """Why there is no plan, and the smallest thing that would help. A value: users can mend it."""

    reason: str = Field(
        description="A Reason: DoesNotFit, NoCapacity, QuotaExceeded, UnsupportedCombination, UnknownArchitecture or InvalidSpec."
    )
    message: str = Field(description="What does not work, with numbers, and what to do.")
    waits: bool = Field(False, description="Time can help (no such nodes now, a quota): it is planned again.")
    needs_trace: bool = Field(
        False, description="A trace of the model would help: the trainer's software measures it on fake tensors."
    )


class AttemptFile(ReadModel):
    """What one attempt runs by. Immutable: a replan is a new attempt."""

    version: int = 1
    namespace: str
    name: str
    uid: str
    attempt: int
    charged_before: int = Field(
        0,
        description="Failed attempts before this one that count against run.retries; kept here so that it survives a lost status.",
    )
    reached_step: int = Field(
        0, description="The last step that earlier attempts are known to have made: steps up to it are made again."
    )
    spec: FineTuneJobSpec
    inspection: InspectionReport
    plan: Plan
    checkpoint_uri: str = Field(
        description="Folder of this job's checkpoints: <checkpoint.uri or output.uri/checkpoints>/<job>-<uid, 8 characters>."
    )
    rendezvous_host: str = Field("127.0.0.1", description="Host name of the pod with completion index 0.")
    rendezvous_port: int = RENDEZVOUS_PORT
    metrics_port: int = METRICS_PORT
    progress: ProgressEndpoint | None = Field(None, description="Absent in local runs.")


def checkpoint_uri(spec: FineTuneJobSpec, name: str, uid: str) -> str:
    """Return the folder of a job's checkpoints; a job created again has another uid and so another folder."""
    root = spec.checkpoint.uri or f"{spec.output.uri.rstrip('/')}/checkpoints"
    return f"{root.rstrip('/')}/{name}-{uid[:8]}"


def tracking_uri(spec: FineTuneJobSpec, name: str, uid: str) -> str:
    """Return the folder of what trackers leave of a job: event files of TensorBoard, runs that were written offline."""
    return f"{spec.output.uri.rstrip('/')}/tracking/{name}-{uid[:8]}"
