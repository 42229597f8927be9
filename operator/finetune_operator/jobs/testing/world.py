"""A small simulation of Kubernetes for tests of policies: objects applied become children, and nothing happens by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from finetune_operator.api.constants import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    INSPECTION_FILE,
    PLAN_FILE,
    SPEC_HASH_ANNOTATION,
)
from finetune_operator.api.inspection import (
    InspectionReport,
)
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB, AttemptFile
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FineTuneJobStatus, ProgressStatus
from finetune_operator.jobs.decisions import Desired
from finetune_operator.jobs.desired import desired_state
from finetune_operator.jobs.observed import ChildCondition, ChildJob, Observed, PodReport
from finetune_operator.jobs.testing.builders import (
    SETTINGS,
    START,
    FixedPlanner,
    make_job,
    make_plan,
    make_pod,
    make_report,
)
from finetune_operator.jobs.times import text_of
from finetune_operator.planner.inventory import CpuNodes, Inventory


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
        """Apply a spec in which these parts are others, and the rest as it was."""
        changed = FineTuneJobSpec.model_validate({**self.job.spec.to_json_dict(), **spec})
        metadata = self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1})
        self.job = self.job.model_copy(update={"metadata": metadata, "spec": changed})

    def lose_status(self) -> None:
        """Forget the status, as a restored backup does."""
        self.job = self.job.model_copy(update={"status": FineTuneJobStatus()})

    def inspect(self, **dataset: Any) -> None:
        """Let the inspect pod finish and report."""
        self.advance(2)
        self.finish("tune-inspect")
        self.report, self.report_owned = make_report(self.job, finished=self.now, **dataset), True

    def train_to(self, step: int, attempt: int = 1, *, evaluation: str | None = None) -> None:
        """Let the attempt's pods run and report a step, and how far the evaluation after the training is."""
        count = self.files[attempt].plan.pods
        self.pods = [make_pod(attempt=attempt, index=index, created=self.now) for index in range(count)]
        self.children[f"tune-{attempt}"] = replace(self.children[f"tune-{attempt}"], active=count)
        self.settle()
        self.advance(5)
        now = text_of(self.now)
        told = ProgressStatus(attempt=attempt, step=step, total_steps=21, evaluation=evaluation, last_updated_time=now)
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


def job_names(world: World) -> list[str]:
    """Return the names of the batch Jobs that exist."""
    return sorted(world.children)


def reason(world: World, kind: ConditionType) -> tuple[str, Reason]:
    """Return status and reason of a condition, which must be there."""
    condition = world.status.condition(kind)
    if condition is None:
        raise AssertionError(f"the status has no condition {kind}")
    return condition.status, condition.reason


def trained(world: World | None = None) -> World:
    """Return a world whose first attempt has made steps."""
    world = world or World()
    world.settle()
    world.inspect()
    world.settle()
    world.train_to(3)
    world.settle()
    return world


def running(pods: int = 2, **spec: Any) -> World:
    """Return a world whose first attempt has trained on so many pods for five minutes."""
    world = World(make_job(**spec), FixedPlanner(make_plan(pods=pods)))
    world.inventory = Inventory(cpu_nodes=(CpuNodes(nodes=1, cpu_millicores=8000, memory_bytes=64 * GIB),))
    trained(world).advance(300)
    return world
