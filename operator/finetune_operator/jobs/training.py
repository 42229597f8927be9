"""The making of an attempt: its inspection and plan, the file it runs by, its objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_operator.api.durations import format_duration
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import GIB, AttemptFile, Plan, PlanError, Throughput, checkpoint_uri
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import PlanStatus
from finetune_operator.jobs.attempts import Attempts, charged_failures, same_work
from finetune_operator.jobs.children import attempt_objects
from finetune_operator.jobs.conditions import Finding
from finetune_operator.jobs.decisions import Planner, RenderSettings
from finetune_operator.jobs.inspection import (
    inspected,
    inspecting,
    inspection_status,
    own_copy,
    unusable,
    usable_report,
)
from finetune_operator.jobs.names import rendezvous_host
from finetune_operator.jobs.observed import Observed
from finetune_operator.jobs.stage import MOVING, Stage, failed, stalled
from finetune_operator.planner.host_replan import keeping_host_memory, with_more_host_memory
from finetune_operator.planner.replan import RanOut

CAPACITY_SECONDS: Final = 60.0
"""Until it is planned again where the cluster lacks nodes; they come without an event for the job."""
UNFIT_SECONDS: Final = 600.0
"""The same where no plan fits: another GPU type can be added to the cluster."""
FIRST_LOOK_SECONDS: Final = 5.0
"""Until the pods of a new attempt are looked at for the first time."""


@dataclass(frozen=True)
class Prepared:
    """All that an attempt is made of, and what was found on the way to it."""

    file: AttemptFile
    findings: tuple[Finding, ...]
    objects: tuple[dict[str, Any], ...] = ()


def prepare(
    job: FineTuneJob, observed: Observed, settings: RenderSettings, planner: Planner, attempts: Attempts, number: int
) -> Prepared | Stage:
    """Return the file of attempt `number`, or the stage that comes before there can be one.

    A retry takes the plan of the attempt before, so that it computes the same losses; after a change of the inputs or of the spec it is planned
    anew, and after a GPU ran out of memory so that it takes less; after a pod ran out of host memory its pods get more.
    """
    existing = observed.attempts.get(number)
    if existing is not None and same_work(job.spec, existing.spec):
        # As it is: its ConfigMap is immutable, and run, scheduling and pod may have changed since.
        return Prepared(existing, (inspected(job, existing.inspection), planned(existing.plan)))
    previous = observed.attempts[max(observed.attempts)] if observed.attempts else None
    replan = attempts.latest is not None and attempts.latest.reason in (Reason.INPUTS_CHANGED, Reason.REPLANNED)
    if previous is not None and not replan and same_work(job.spec, previous.spec):
        if attempts.latest is not None and attempts.latest.reason is Reason.GPU_OUT_OF_MEMORY:
            return _smaller(job, observed, settings, planner, attempts, number, previous)
        if attempts.latest is not None and attempts.latest.reason is Reason.HOST_OUT_OF_MEMORY:
            more = with_more_host_memory(previous.plan, observed.inventory, observed.limits)
            return _after_shortage(job, observed, settings, attempts, number, previous, more)
        made = _file(job, settings, attempts, observed, number, previous)
        return Prepared(made, (inspected(job, made.inspection), planned(made.plan)))
    report = usable_report(job, observed, attempts)
    if report is None:
        return inspecting(job, observed, settings, attempts)
    if (end := unusable(job, report)) is not None:
        return end
    finding = inspected(job, report)
    copies = own_copy(job, report, observed)
    plan = planner(job.spec, report, observed.inventory, history=observed.history, limits=observed.limits)
    if isinstance(plan, PlanError) and plan.needs_trace:
        stage = inspecting(job, observed, settings, attempts, untraced=report)
        # Another job's report first becomes this one's own: without it nobody would know that the next inspection has to trace.
        return replace(stage, objects=(*copies, *stage.objects), inspection=inspection_status(report))
    if isinstance(plan, PlanError):
        stage = _without_plan(plan)
        return replace(stage, objects=copies, inspection=inspection_status(report)).after((finding,))
    base = AttemptFile(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        attempt=number,
        spec=job.spec,
        inspection=report,
        plan=plan,
        checkpoint_uri=checkpoint_uri(job.spec, job.metadata.name, job.metadata.uid),
    )
    made = _file(job, settings, attempts, observed, number, base)
    reason = Reason.REPLANNED if replan else Reason.PLANNED
    return Prepared(made, (finding, planned(plan, reason)), copies)


def create(job: FineTuneJob, prepared: Prepared, settings: RenderSettings) -> Stage:
    """Return the stage that makes an attempt's objects."""
    number = prepared.file.attempt
    suspend = job.spec.run.suspend
    state = JobState.SUSPENDED if suspend else JobState.PLANNED if job.status.start_time is None else JobState.STARTING
    said = "suspended before its start; set run.suspend: false to go on" if suspend else "creating its pods"
    reason = Reason.SUSPENDED_BY_USER if suspend else Reason.WAITING_FOR_PODS
    pods = Reason.SUSPENDED_BY_USER if suspend else Reason.CREATING_PODS
    return Stage(
        state=state,
        message=f"attempt {number}: {said}",
        findings=(
            *prepared.findings,
            Finding(ConditionType.PODS_SCHEDULED, "False", pods),
            Finding(ConditionType.RUNNING, "False", reason),
            MOVING,
        ),
        objects=(*prepared.objects, *attempt_objects(job, prepared.file, settings)),
        requeue_after=FIRST_LOOK_SECONDS,
        inspection=inspection_status(prepared.file.inspection),
        plan=plan_status(prepared.file.plan),
        started=not suspend,
        creates=number,
    )


def planned(plan: Plan, reason: Reason = Reason.PLANNED) -> Finding:
    """Return what the condition says of a plan; a plan after a shortage of memory is always `Replanned`."""
    reason = Reason.REPLANNED if plan.replans or plan.host_replans else reason
    on = f"{plan.gpus} × {plan.gpu_product}" if plan.accelerator == "gpu" else f"{plan.processes} CPU processes"
    text = (
        f"{on}, {plan.pods} pod{'s' if plan.pods > 1 else ''}, {plan.strategy}, micro-batch {plan.micro_batch_size} × "
        f"{plan.gradient_accumulation}, {plan.total_steps} steps, {_gib(plan.memory.expected_bytes)} GiB expected per process"
    )
    return Finding(ConditionType.PLANNED, "True", reason, text)


def speed_status(throughput: Throughput | None) -> dict[str, Any]:
    """Return the fields of status.plan about time and money, as texts; what is not known is absent."""
    if throughput is None:
        return {}
    total, hours, cost = throughput.total_seconds, throughput.gpu_hours, throughput.cost
    return {
        "step_seconds": f"{throughput.step_seconds:.3g}",
        "tokens_per_second": round(throughput.tokens_per_second),
        "duration": None if total is None else format_duration(total),
        "gpu_hours": None if hours is None else f"{hours:.3g}",
        "cost": None if cost is None else f"{cost:.2f} {throughput.currency}".rstrip(),
    }


def plan_status(plan: Plan) -> PlanStatus:
    """Return the plan in short."""
    return PlanStatus(
        gpus=plan.gpus,
        gpu_product=plan.gpu_product,
        pods=plan.pods,
        processes=plan.processes,
        strategy=plan.strategy.value,
        micro_batch_size=plan.micro_batch_size,
        gradient_accumulation=plan.gradient_accumulation,
        gradient_checkpointing=plan.gradient_checkpointing.value,
        offload=plan.offload.value,
        total_steps=plan.total_steps,
        packed_sequences=plan.sequences if plan.packed else None,
        trainable_parameters=plan.trainable_parameters,
        expected_gib=_gib(plan.memory.expected_bytes),
        upper_gib=_gib(plan.memory.upper_bytes),
        **speed_status(plan.throughput),
        reasons=list(plan.reasons[:20]),
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _file(
    job: FineTuneJob,
    settings: RenderSettings,
    attempts: Attempts,
    observed: Observed,
    number: int,
    base: AttemptFile,
) -> AttemptFile:
    if base.attempt == number and number in observed.attempts:
        return base  # the ConfigMap is there and immutable
    return base.model_copy(
        update={
            "attempt": number,
            "spec": job.spec,
            "charged_before": charged_failures(attempts, observed),
            "reached_step": max([base.reached_step, *(record.last_step or 0 for record in attempts.records)]),
            "rendezvous_host": rendezvous_host(job.metadata.name, number, base.plan.pods),
            "progress": settings.progress,
        }
    )


def _smaller(
    job: FineTuneJob,
    observed: Observed,
    settings: RenderSettings,
    planner: Planner,
    attempts: Attempts,
    number: int,
    previous: AttemptFile,
) -> Prepared | Stage:
    """Return the attempt after one whose GPU ran out of memory."""
    shortage = attempts.latest.memory_shortage if attempts.latest else None
    plan = planner(
        job.spec,
        previous.inspection,
        observed.inventory,
        history=observed.history,
        limits=observed.limits,
        failure=RanOut(previous.plan, shortage),
    )
    if isinstance(plan, Plan):
        plan = keeping_host_memory(plan, previous.plan)
    return _after_shortage(job, observed, settings, attempts, number, previous, plan)


def _after_shortage(
    job: FineTuneJob,
    observed: Observed,
    settings: RenderSettings,
    attempts: Attempts,
    number: int,
    previous: AttemptFile,
    plan: Plan | PlanError,
) -> Prepared | Stage:
    """Return the attempt that runs by the plan after a shortage of memory; where there is none, the wait for nodes or the job's end."""
    if isinstance(plan, PlanError):
        if plan.waits:
            return _without_plan(plan)
        shortage = attempts.latest.reason if attempts.latest else None
        return failed(
            shortage or Reason.GPU_OUT_OF_MEMORY,
            plan.message,
            Finding(ConditionType.PLANNED, "False", Reason.DOES_NOT_FIT, plan.message),
        )
    base = previous.model_copy(update={"plan": plan})
    made = _file(job, settings, attempts, observed, number, base)
    return Prepared(made, (inspected(job, made.inspection), planned(plan)))


def _without_plan(error: PlanError) -> Stage:
    reason = Reason(error.reason)
    if reason is Reason.INVALID_SPEC:
        return failed(reason, error.message, Finding(ConditionType.PLANNED, "False", reason, error.message))
    return Stage(
        state=JobState.PENDING,
        message=f"no plan: {error.message}",
        findings=(
            Finding(ConditionType.PLANNED, "False", reason, error.message),
            Finding(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PLAN),
            stalled(error.message),
        ),
        requeue_after=CAPACITY_SECONDS if error.waits else UNFIT_SECONDS,
    )
