"""Builders of what policies are asked about: a job, its report, its plan, its pods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.constants import (
    API_VERSION,
    KIND,
)
from finetune_operator.api.evaluated import Evaluated
from finetune_operator.api.exit_codes import meaning_of
from finetune_operator.api.history import History, Prediction, RunKind
from finetune_operator.api.inspection import (
    DatasetFacts,
    InputFile,
    InspectionReport,
    ModelFacts,
    ProgressEndpoint,
    TokenHistogram,
    inspection_key,
)
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import (
    GIB,
    AttemptFile,
    MemoryEstimate,
    MemoryRange,
    Phase,
    Plan,
    PlanError,
    PodResources,
    checkpoint_uri,
)
from finetune_operator.api.progress import MemoryShortage, TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.jobs.children import attempt_objects
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.names import rendezvous_host
from finetune_operator.jobs.observed import ComponentName, PodReport
from finetune_operator.jobs.times import text_of
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.limits import Limits
from finetune_operator.planner.replan import RanOut

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS: Final = RenderSettings(
    inspect_image="registry.example/inspect:1",
    trainer_image="registry.example/trainer:1",
    progress=ProgressEndpoint(url="https://finetune-operator.example:8443", certificate_authority="-----BEGIN-----"),
)


def later(seconds: float) -> datetime:
    """Return the time so long after the start."""
    return START + timedelta(seconds=seconds)


def make_job(name: str = "tune", *, status: FineTuneJobStatus | None = None, **spec: Any) -> FineTuneJob:
    """Return a job; `spec` is laid over a minimal one, field by field at the first level."""
    minimal = {
        "model": {"uri": "hf://org/tiny"},
        "dataset": {"uri": "s3://data/rows.jsonl"},
        "output": {"uri": f"s3://models/{name}"},
    }
    metadata = {"name": name, "namespace": "team", "uid": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "generation": 1}
    job = FineTuneJob.from_manifest(
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {**minimal, **spec}}
    )
    return job if status is None else job.model_copy(update={"status": status})


def make_report(job: FineTuneJob, *, finished: datetime = START, **dataset: Any) -> InspectionReport:
    """Return a usable report about a job; `dataset` changes its facts."""
    tokens = TokenHistogram(
        edges=(1, 64), counts=(100,), minimum=8, maximum=60, mean=30.0, median=30, percentile_99=59, total=3000
    )
    facts: dict[str, Any] = {
        "uri": job.spec.data_uri,
        "format": "messages",
        "files": tuple(InputFile(uri=each.uri, size=10_000, etag="e1") for each in job.spec.all_datasets),
        "rows": 100,
        "tokens": tokens,
        **dataset,
    }
    return InspectionReport(
        key=inspection_key(job.metadata.namespace, job.spec),
        job=f"{job.metadata.namespace}/{job.metadata.name}",
        finished_at=text_of(finished),
        seconds=2.0,
        model=ModelFacts(
            uri=job.spec.model.uri,
            revision="abc",
            architecture="LlamaForCausalLM",
            config={"hidden_size": 64},
            parameters=1_000_000,
            weight_bytes=2_000_000,
            dtypes={"BF16": 1_000_000},
            files=(InputFile(uri="hf://org/tiny/model.safetensors", size=2_000_000),),
        ),
        dataset=DatasetFacts(**facts),
    )


def make_plan(*, pods: int = 1, processes: int | None = None, accelerator: str = "cpu", **changes: Any) -> Plan:
    """Return a plan for so many pods, with one process each where `processes` does not say otherwise."""
    count = processes or pods
    gpu = accelerator == "gpu"
    values: dict[str, Any] = {
        "accelerator": accelerator,
        "gpu_product": "NVIDIA-H100-80GB-HBM3" if gpu else None,
        "gpu_memory_bytes": 80 * GIB if gpu else None,
        "processes": count,
        "pods": pods,
        "processes_per_pod": count // pods,
        "strategy": Strategy.SINGLE if count == 1 else Strategy.FSDP,
        "micro_batch_size": 4,
        "gradient_accumulation": 4,
        "global_batch_size": 16 * count,
        "gradient_checkpointing": Checkpointing.NONE,
        "max_length": 2048,
        "rows": 100,
        "steps_per_epoch": 7,
        "total_steps": 21,
        "trainable_parameters": 10_000,
        "total_parameters": 1_010_000,
        "memory": MemoryEstimate(
            expected_bytes=GIB,
            upper_bytes=2 * GIB,
            allocated=MemoryRange(expected_bytes=GIB, upper_bytes=2 * GIB),
            reserved=MemoryRange(expected_bytes=GIB, upper_bytes=2 * GIB),
            phases=(),
            peak_phase=Phase.BACKWARD,
        ),
        "resources": PodResources(
            cpu_millicores=4000,
            memory_bytes=8 * GIB,
            shared_memory_bytes=GIB,
            ephemeral_storage_bytes=20 * GIB,
            gpus=count // pods if gpu else 0,
        ),
        "reasons": ("fits",),
        **changes,
    }
    return Plan(**values)


def make_prediction(expected_bytes: int = GIB, tokens_per_second: float = 1000.0) -> Prediction:
    """Return what the formulas say of the plan that `make_plan` makes."""
    kind = RunKind(
        model_type="llama",
        parameters=1_000_000,
        method=Method.LORA,
        precision="bf16",
        strategy=Strategy.SINGLE,
        checkpointing=Checkpointing.NONE,
        accelerator="cpu",
        processes=1,
        length=2048,
    )
    return Prediction(kind=kind, expected_bytes=expected_bytes, tokens_per_second=tokens_per_second)


def halved(failure: RanOut) -> Plan:
    """Return the plan of a failed attempt with micro-batches of half the size."""
    half = {"micro_batch_size": failure.plan.micro_batch_size // 2}
    return failure.plan.model_copy(update={**half, "replans": failure.number})


@dataclass(frozen=True)
class FixedPlanner:
    """A planner with one answer, and one after a GPU ran out of memory."""

    answer: Plan | PlanError = field(default_factory=make_plan)
    after_failure: Callable[[RanOut], Plan | PlanError] = halved

    def __call__(
        self,
        spec: FineTuneJobSpec,
        inspection: InspectionReport,
        inventory: Inventory,
        *,
        history: History,
        limits: Limits,
        failure: RanOut | None = None,
    ) -> Plan | PlanError:
        """Return the answer."""
        return self.answer if failure is None else self.after_failure(failure)


def make_pod(component: ComponentName = "train", attempt: int | None = 1, index: int = 0, **parts: Any) -> PodReport:
    """Return a running pod, changed by `parts`."""
    values: dict[str, Any] = {
        "name": f"tune-{attempt or component}-{index}-abcde",
        "phase": "Running",
        "created": START,
        "scheduled": True,
        "running": True,
        **parts,
    }
    return PodReport(component=component, attempt=attempt, index=index, **values)


def ended_pod(
    code: int,
    *,
    reason: Reason | None = None,
    message: str = "what happened.",
    shortage: MemoryShortage | None = None,
    silent: bool = False,
    finished: datetime = START,
    step: int | None = None,
    peak: int | None = None,
    result_uri: str | None = None,
    destinations: tuple[str, ...] = (),
    evaluation: Evaluated | None = None,
    **parts: Any,
) -> PodReport:
    """Return a pod that ended with `code`; `silent` when it left no termination message."""
    told = TerminationMessage(
        reason=reason or meaning_of(code).reason,
        exit_code=code,
        message=message,
        step=step,
        peak_memory_bytes=peak,
        memory_shortage=shortage,
        evaluation=evaluation,
        result_uri=result_uri,
        destinations=destinations,
    )
    values: dict[str, Any] = {
        "phase": "Failed" if code else "Succeeded",
        "running": False,
        "exit_code": code,
        "container_reason": "Error" if code else "Completed",
        "termination": None if silent else told,
        "finished": finished,
        **parts,
    }
    return make_pod(**values)


def make_file(job: FineTuneJob, plan: Plan, attempt: int = 1) -> AttemptFile:
    """Return what the pods of an attempt read."""
    meta = job.metadata
    return AttemptFile(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        attempt=attempt,
        spec=job.spec,
        inspection=make_report(job),
        plan=plan,
        checkpoint_uri=checkpoint_uri(job.spec, meta.name, meta.uid),
        rendezvous_host=rendezvous_host(meta.name, attempt, plan.pods),
        progress=SETTINGS.progress,
    )


def attempt_children(job: FineTuneJob, plan: Plan) -> list[dict[str, Any]]:
    """Return the rendered objects of the first attempt, its Job last."""
    return list(attempt_objects(job, make_file(job, plan), SETTINGS))


def first_container(body: dict[str, Any]) -> dict[str, Any]:
    """Return the first container of a rendered Job: the one that does its work where there is one alone."""
    found: dict[str, Any] = body["spec"]["template"]["spec"]["containers"][0]
    return found
