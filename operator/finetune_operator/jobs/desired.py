"""The whole way of a job as one pure function: what should be, decided anew each time from what is.

It may be asked twice, late, or about stale data: names are deterministic, numbers only rise, and with the same input it gives the same bytes. Each
stage of the way is a module of its own; here they only follow one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from finetune_operator.api.constants import COMPONENT_TRAIN
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import AttemptStatus
from finetune_operator.jobs.attempts import (
    Attempts,
    attempts_of,
    outdated_children,
    references_of,
    seconds_until_next,
    superseded,
    verdict,
    was_superseded,
)
from finetune_operator.jobs.causes import failing
from finetune_operator.jobs.chains import resolved
from finetune_operator.jobs.children import attempt_job, publish_job
from finetune_operator.jobs.conditions import Finding, holds, is_finished
from finetune_operator.jobs.deadlines import seconds_to_deadline, seconds_to_removal
from finetune_operator.jobs.decisions import ChildReference, Desired, JobEvent, Planner, RenderSettings
from finetune_operator.jobs.model_cache import why_refused
from finetune_operator.jobs.names import job_reference
from finetune_operator.jobs.observed import Observed
from finetune_operator.jobs.publication import publish
from finetune_operator.jobs.retry import GiveUp
from finetune_operator.jobs.running import follow, restarting, told_why
from finetune_operator.jobs.stage import MOVING, Stage, failed, stalled
from finetune_operator.jobs.status import events_between, status_after
from finetune_operator.jobs.times import text_of
from finetune_operator.jobs.training import create, prepare

__all__ = ["ChildReference", "Desired", "JobEvent", "Planner", "RenderSettings", "desired_state"]

FOREIGN_SECONDS: Final = 60.0
"""Until it is looked again whether a child's name is free; objects of others are not watched."""


def desired_state(job: FineTuneJob, observed: Observed, settings: RenderSettings, planner: Planner) -> Desired:
    """Return what should be of `job`, given what is known of it."""
    if is_finished(job.status):
        return _finished(job, observed, settings)
    found = resolved(job, observed.sources, observed.attempts)
    if isinstance(found, Stage):
        accepted = Finding(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, "the spec is valid")
        return _desired(job, observed, attempts_of(job, observed), found.after((accepted,)))
    job, known = found
    attempts = attempts_of(job, observed)
    latest = attempts.latest
    file = observed.attempts.get(latest.number) if latest else None
    deletions: tuple[ChildReference, ...] = ()
    if latest is not None and was_superseded(job, latest, file):
        attempts = attempts.replaced(superseded(latest, observed.now))
        deletions = references_of(job.metadata.name, (latest.number,), observed)
    stage = (
        _overdue(job, observed)
        or _refused(job, observed, settings, attempts.latest)
        or _next(job, observed, settings, planner, attempts)
    )
    accepted = Finding(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, "the spec is valid")
    stage = stage.after((accepted,))
    if stage.state is JobState.FAILED:
        stage = _stopping(job, observed, settings, stage)
    attempts = _with_outcome(attempts, stage, observed)
    old = () if observed.foreign else outdated_children(job, attempts, observed)
    unique = dict.fromkeys((*stage.deletions, *deletions, *old))
    stage = replace(stage, deletions=tuple(unique), source=known.model, sources=known.others)
    return _desired(job, observed, attempts, stage)


def _refused(
    job: FineTuneJob, observed: Observed, settings: RenderSettings, latest: AttemptStatus | None
) -> Stage | None:
    if observed.foreign:
        names = ", ".join(observed.foreign)
        message = f"{names} belongs to someone else and bears the name of a child of this job; delete or rename it, or this job"
        said = Finding(ConditionType.ACCEPTED, "False", Reason.CHILD_NOT_OURS, message)
        return Stage(_state_so_far(job), message, (said, stalled(message)), requeue_after=FOREIGN_SECONDS)
    judged, distill, online = job.spec.evaluation, job.spec.training.distill, job.spec.training.online
    local = [
        field
        for field, uri in (
            ("model.uri", job.spec.model.uri),
            *_data_locations(job.spec),
            ("training.distill.teacher.uri", distill.teacher.uri if distill else ""),
            ("evaluation.entailment.uri", judged.entailment.uri if judged.entailment else ""),
            ("evaluation.harness.uri", judged.harness.uri if judged.harness else ""),
            *(("rewards.model.uri", model.uri) for model in (online.reward_models if online else ())),
            ("output.uri", job.spec.output.uri),
            ("checkpoint.uri", job.spec.checkpoint.uri or ""),
            ("checkpoint.resumeFrom", job.spec.checkpoint.resume_from or ""),
        )
        if uri.startswith("file://")
    ]
    child = observed.child(COMPONENT_TRAIN, latest.number) if latest else None
    if child is None and (message := why_refused(job.spec, settings)):
        said = Finding(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, message)
        return Stage(_state_so_far(job), message, (said, stalled(message)), requeue_after=FOREIGN_SECONDS)
    if local:
        message = f"spec.{', spec.'.join(local)}: file:// is for local runs (finetune run); in a cluster use a bucket: s3://, gs:// or az://"
        said = Finding(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, message)
        return Stage(_state_so_far(job), message, (said, stalled(message)))
    return None


def _data_locations(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(spec.all_datasets):
        name = "dataset" if spec.datasets is None else f"datasets[{number}]"
        yield f"{name}.uri", each.uri
        if each.evaluation is not None:
            yield f"{name}.evaluation.uri", each.evaluation.uri


def _state_so_far(job: FineTuneJob) -> JobState:
    return job.status.state or JobState.PENDING


def _overdue(job: FineTuneJob, observed: Observed) -> Stage | None:
    left = seconds_to_deadline(job, observed.now)
    if left is None or left > 0:
        return None
    if any(child.component == "publish" and child.has_condition("Complete") for child in observed.children):
        return None  # done in time, seen late
    message = f"run.deadline {job.spec.run.deadline} is over, counted from {job.status.start_time}; checkpoints stay where they are"
    return failed(Reason.DEADLINE_EXCEEDED, message)


def _next(
    job: FineTuneJob, observed: Observed, settings: RenderSettings, planner: Planner, attempts: Attempts
) -> Stage:
    latest = attempts.latest
    if latest is None:
        return _begin(job, observed, settings, planner, attempts, 1)
    if latest.result == "Succeeded":
        file = observed.attempts.get(latest.number)
        if file is None:
            # Its ConfigMap was deleted by hand. The training is done all the same, whatever the cluster has now.
            prepared = prepare(job, observed, settings, planner, attempts, latest.number)
            if isinstance(prepared, Stage):
                return replace(prepared, state=JobState.PUBLISHING)
            file = prepared.file
        return publish(job, observed, settings, latest, file)
    if latest.result == "Failed":
        decision = verdict(job, attempts, observed)
        if isinstance(decision, GiveUp):
            return failed(decision.reason, decision.message)
        wait = seconds_until_next(attempts, observed.now)
        if wait > 0:
            return restarting(latest, wait)
        return _begin(job, observed, settings, planner, attempts, attempts.next_number)
    child = observed.child(COMPONENT_TRAIN, latest.number)
    if child is None:
        # Not made yet, not seen yet, or deleted by hand: applied again under the same number, it is the same attempt.
        return _begin(job, observed, settings, planner, attempts, latest.number)
    if attempts.look_again_after is not None:
        said = f"attempt {latest.number} has failed; its first cause is being looked for"
        running = Finding(ConditionType.RUNNING, "False", Reason.RESTARTING, said)
        return Stage(JobState.STARTING, said, (running, MOVING), requeue_after=attempts.look_again_after)
    if child.deleting:
        said = f"attempt {latest.number}: its Job is being deleted; it is made anew afterwards"
        running = Finding(ConditionType.RUNNING, "False", Reason.RESTARTING, said)
        return Stage(JobState.STARTING, said, (running, MOVING), requeue_after=5.0)
    return told_why(follow(job, observed, settings, latest), attempts.before(latest))


def _begin(
    job: FineTuneJob,
    observed: Observed,
    settings: RenderSettings,
    planner: Planner,
    attempts: Attempts,
    number: int,
) -> Stage:
    prepared = prepare(job, observed, settings, planner, attempts, number)
    if isinstance(prepared, Stage):
        return prepared
    latest = attempts.latest
    before = latest if latest is None or latest.number < number else attempts.before(latest)
    return told_why(create(job, prepared, settings), before)


def _with_outcome(attempts: Attempts, stage: Stage, observed: Observed) -> Attempts:
    """Return the attempts with the one that the stage makes, which stands in status before any cache has seen it, or ends."""
    latest = attempts.latest
    if stage.state is JobState.FAILED and latest is not None and latest.result in ("Running", "Suspended"):
        end = next(finding for finding in stage.findings if finding.type is ConditionType.FAILED)
        told = {
            "result": "Failed",
            "reason": end.reason,
            "message": end.message,
            "completion_time": text_of(observed.now),
        }
        return attempts.replaced(latest.model_copy(update=told))
    if stage.creates is None or (latest is not None and stage.creates <= latest.number):
        return attempts
    suspended = stage.state is JobState.SUSPENDED
    return attempts.replaced(AttemptStatus(number=stage.creates, result="Suspended" if suspended else "Running"))


def _stopping(job: FineTuneJob, observed: Observed, settings: RenderSettings, stage: Stage) -> Stage:
    """Return the stage with what stops the pods of a job that has ended: suspended Jobs keep their names and conditions to be read."""
    stopped = job.model_copy(
        update={"spec": job.spec.model_copy(update={"run": job.spec.run.model_copy(update={"suspend": True})})}
    )
    objects, deletions = [*stage.objects], [*stage.deletions]
    for child in observed.children:
        if child.suspended or child.deleting or child.has_condition("Complete") or failing(child) is not None:
            continue
        file = observed.attempts.get(child.attempt) if child.attempt is not None else None
        if file is None:
            deletions.append(job_reference(child.name))
        elif child.component == COMPONENT_TRAIN:
            objects.append(attempt_job(stopped, file, settings))
        else:
            objects.append(publish_job(stopped, file, settings))
    return replace(stage, objects=tuple(objects), deletions=tuple(deletions))


def _finished(job: FineTuneJob, observed: Observed, settings: RenderSettings) -> Desired:
    before = job.status
    state = JobState.COMPLETE if holds(before, ConditionType.COMPLETE) else JobState.FAILED
    attempts = Attempts(tuple(before.attempts))
    stage = Stage(state, before.message or "", ended=True)
    stage = _stopping(job, observed, settings, stage)
    old = outdated_children(job, attempts, observed)
    left = seconds_to_removal(job, observed.now)
    stage = replace(
        stage, deletions=(*stage.deletions, *old), requeue_after=left if left is not None and left > 0 else None
    )
    desired = _desired(job, observed, attempts, stage)
    return replace(desired, delete_job=left is not None and left <= 0)


def _desired(job: FineTuneJob, observed: Observed, attempts: Attempts, stage: Stage) -> Desired:
    status = status_after(job, observed, attempts, stage)
    waits = [stage.requeue_after]
    left = seconds_to_deadline(job, observed.now)
    if left is not None and left > 0 and not is_finished(job.status) and not stage.ended:
        waits.append(left)
    return Desired(
        status=status,
        objects=stage.objects,
        deletions=stage.deletions,
        events=events_between(job.status, status),
        requeue_after=min((wait for wait in waits if wait is not None), default=None),
    )
