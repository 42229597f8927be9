"""Builders and a small simulation of Kubernetes for tests of policies: objects applied become children, and nothing happens by itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.constants import (
    API_VERSION,
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    INSPECTION_FILE,
    KIND,
    PLAN_FILE,
    SPEC_HASH_ANNOTATION,
)
from finetune_operator.api.exit_codes import meaning_of
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
from finetune_operator.api.plan import GIB, AttemptFile, MemoryEstimate, Phase, Plan, PlanError, PodResources
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus, ProgressStatus
from finetune_operator.jobs.decisions import Desired, RenderSettings
from finetune_operator.jobs.desired import desired_state
from finetune_operator.jobs.observed import ChildCondition, ChildJob, ComponentName, Observed, PodReport
from finetune_operator.jobs.times import text_of
from finetune_operator.planner.inventory import Inventory

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS: Final = RenderSettings(
    inspect_image="registry.example/inspect:1",
    trainer_image="registry.example/trainer:1",
    progress=ProgressEndpoint(url="https://finetune-operator.example:8443", certificate_authority="-----BEGIN-----"),
)


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
        "uri": job.spec.dataset.uri,
        "format": "messages",
        "files": (InputFile(uri=job.spec.dataset.uri, size=10_000, etag="e1"),),
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
        "memory": MemoryEstimate(expected_bytes=GIB, upper_bytes=2 * GIB, phases=(), peak_phase=Phase.BACKWARD),
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


@dataclass(frozen=True)
class FixedPlanner:
    """A planner with one answer."""

    answer: Plan | PlanError = field(default_factory=make_plan)

    def __call__(self, spec: FineTuneJobSpec, inspection: InspectionReport, inventory: Inventory) -> Plan | PlanError:
        """Return the answer."""
        return self.answer


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
    silent: bool = False,
    finished: datetime = START,
    step: int | None = None,
    peak: int | None = None,
    result_uri: str | None = None,
    **parts: Any,
) -> PodReport:
    """Return a pod that ended with `code`; `silent` when it left no termination message."""
    told = TerminationMessage(
        reason=reason or meaning_of(code).reason,
        exit_code=code,
        message=message,
        step=step,
        peak_memory_bytes=peak,
        result_uri=result_uri,
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


class World:
    """One job in a cluster where only the test makes anything happen: `settle` lets the operator do its part."""

    def __init__(self, job: FineTuneJob | None = None, planner: FixedPlanner | None = None) -> None:
        self.job = job or make_job()
        self.planner = planner or FixedPlanner()
        self.now = START
        self.inventory = Inventory()
        self.children: dict[str, ChildJob] = {}
        self.pods: list[PodReport] = []
        self.files: dict[int, AttemptFile] = {}
        self.services: set[str] = set()
        self.report: InspectionReport | None = None
        self.report_owned = True
        self.report_age = 0.0
        self.refusals: dict[str, str] = {}
        self.foreign: tuple[str, ...] = ()
        self.deleted = False
        self.history: list[Desired] = []

    @property
    def status(self) -> FineTuneJobStatus:
        """The stored status."""
        return self.job.status

    def observe(self) -> Observed:
        """Return what the operator sees."""
        return Observed(
            now=self.now,
            inventory=self.inventory,
            children=tuple(self.children[name] for name in sorted(self.children)),
            pods=tuple(self.pods),
            inspection=self.report,
            inspection_age_seconds=self.report_age,
            inspection_owned=self.report_owned,
            attempts=MappingProxyType(dict(self.files)),
            refusals=MappingProxyType(dict(self.refusals)),
            foreign=self.foreign,
        )

    def reconcile(self) -> Desired:
        """Decide once and carry it out, as the reconciler does."""
        desired = desired_state(self.job, self.observe(), SETTINGS, self.planner)
        for body in desired.objects:
            self._apply(body)
        for reference in desired.deletions:
            self._delete(reference.kind, reference.name)
        stored = desired.status.model_copy(update={"progress": self.status.progress})
        self.job = self.job.model_copy(update={"status": stored})
        self.deleted = self.deleted or desired.delete_job
        self.history.append(desired)
        return desired

    def settle(self, limit: int = 8) -> Desired:
        """Reconcile until a run writes nothing; fail when that does not come."""
        for _ in range(limit):
            before = self.status
            desired = self.reconcile()
            if not desired.objects and not desired.deletions and self.status == before:
                return desired
        raise AssertionError(f"the operator still writes after {limit} runs: {self.history[-1]}")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def change_spec(self, **spec: Any) -> None:
        """Apply a changed spec."""
        changed = make_job(self.job.metadata.name, **spec)
        metadata = self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1})
        self.job = changed.model_copy(update={"metadata": metadata, "status": self.status})

    def lose_status(self) -> None:
        """Forget the status, as a restored backup does."""
        self.job = self.job.model_copy(update={"status": FineTuneJobStatus()})

    def inspect(self, **dataset: Any) -> None:
        """Let the inspect pod finish and report."""
        self.advance(2)
        self.finish("tune-inspect")
        self.report, self.report_owned = make_report(self.job, finished=self.now, **dataset), True

    def train_to(self, step: int, attempt: int = 1) -> None:
        """Let the attempt's pods run and report a step."""
        count = self.files[attempt].plan.pods
        self.pods = [make_pod(attempt=attempt, index=index, created=self.now) for index in range(count)]
        self.children[f"tune-{attempt}"] = replace(self.children[f"tune-{attempt}"], active=count)
        self.settle()
        self.advance(5)
        told = ProgressStatus(attempt=attempt, step=step, total_steps=21, last_updated_time=text_of(self.now))
        self.job = self.job.model_copy(update={"status": self.status.model_copy(update={"progress": told})})

    def finish(self, name: str, *pods: PodReport) -> None:
        """Let a child Job complete."""
        self.pods = [*pods]
        self._end(name, ChildCondition("Complete", "True", "CompletionsReached", "", self.now), completed=self.now)

    def fail(
        self,
        name: str,
        *pods: PodReport,
        kind: str = "FailureTarget",
        reason: str = "PodFailurePolicy",
        message: str = "",
    ) -> None:
        """Let a child Job fail."""
        self.pods = [*pods]
        self._end(name, ChildCondition(kind, "True", reason, message, self.now))

    def _end(self, name: str, condition: ChildCondition, **changes: Any) -> None:
        child = self.children[name]
        self.children[name] = replace(child, conditions=(*child.conditions, condition), active=0, **changes)

    def _apply(self, body: dict[str, Any]) -> None:
        name, kind = body["metadata"]["name"], body["kind"]
        if kind == "Service":
            self.services.add(name)
        elif kind == "ConfigMap" and PLAN_FILE in body["data"]:
            file = AttemptFile.model_validate_json(body["data"][PLAN_FILE])
            if self.files.setdefault(file.attempt, file) != file:
                raise AssertionError(f"ConfigMap {name} is immutable and was applied with other content")
        elif kind == "ConfigMap":
            self.report = InspectionReport.model_validate_json(body["data"][INSPECTION_FILE])
            self.report_owned = True
        elif name in self.children:
            self.children[name] = replace(self.children[name], suspended=bool(body["spec"].get("suspend")))
        else:
            self.children[name] = self._child(body)

    def _child(self, body: dict[str, Any]) -> ChildJob:
        metadata = body["metadata"]
        attempt = metadata["labels"].get(ATTEMPT_LABEL)
        return ChildJob(
            name=metadata["name"],
            component=metadata["labels"][COMPONENT_LABEL],
            attempt=int(attempt) if attempt else None,
            created=self.now,
            suspended=bool(body["spec"].get("suspend")),
            spec_hash=metadata["annotations"][SPEC_HASH_ANNOTATION],
        )

    def _delete(self, kind: str, name: str) -> None:
        if kind == "Job":
            del self.children[name]
        elif kind == "Service":
            self.services.remove(name)
        elif name.endswith("-inspection"):
            self.report = None
        else:
            del self.files[int(name.rpartition("-")[2])]
