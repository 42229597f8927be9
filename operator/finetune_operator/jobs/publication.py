"""The publication: repeatable, tried again for as long as time can help, and never a reason to lose the training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from finetune_operator.api.constants import COMPONENT_PUBLISH
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import AttemptStatus
from finetune_operator.jobs.causes import cause_of_attempt, failing, latest_cause
from finetune_operator.jobs.children import FINAL_CODES, attempt_config_map, publish_job
from finetune_operator.jobs.conditions import Finding, fitting
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.names import job_reference, publish_name
from finetune_operator.jobs.observed import ChildJob, Observed, PodReport
from finetune_operator.jobs.retry import Cause
from finetune_operator.jobs.stage import MOVING, Stage, failed, stalled
from finetune_operator.jobs.times import moment_of, seconds_since
from finetune_operator.jobs.waiting import is_without_volumes, why_waiting

SHORTEST_PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 30.0

_TRAINED: Final = (
    Finding(ConditionType.PODS_SCHEDULED, "False", Reason.SUCCEEDED, "the training is done"),
    Finding(ConditionType.RUNNING, "False", Reason.SUCCEEDED, "the training is done"),
)


def publish(
    job: FineTuneJob, observed: Observed, settings: RenderSettings, record: AttemptStatus, file: AttemptFile
) -> Stage:
    """Return the stage of a job whose attempt `record` has succeeded, and runs by `file`."""
    child = next((c for c in observed.children if c.component == COMPONENT_PUBLISH), None)
    pods = tuple(pod for pod in observed.pods if pod.component == COMPONENT_PUBLISH)
    suspend = job.spec.run.suspend
    if child is not None and child.has_condition("Complete"):
        return _complete(job, pods)
    if child is not None and child.deleting:
        return _publishing("the publish Job is being replaced", requeue_after=5.0)
    if child is None:
        missing = () if record.number in observed.attempts else (attempt_config_map(job, file),)
        objects = (*missing, publish_job(job, file, settings))
        if suspend:
            return _suspended(objects)
        return _publishing("creating the publish pod", objects=objects)
    objects = (publish_job(job, file, settings),) if child.suspended != suspend else ()
    if failing(child) is not None:
        return _failing(job, observed, record, child, pods)
    if suspend:
        return _suspended(objects)
    if record.number not in observed.attempts and any(is_without_volumes(pod, observed.now) for pod in pods):
        objects = (attempt_config_map(job, file), *objects)
    if (cause := latest_cause(pods)) is not None:
        return _troubled(cause, "The training is safe; it is tried again.", LOOK_SECONDS)
    expected = 0 if any(pod.exit_code == 0 for pod in pods) else 1  # its Job says so a second later
    wait = why_waiting(pods, expected, observed.refusals.get(child.name, ""))
    stage = _publishing(wait.message if wait else "verifying, merging and uploading", objects=objects)
    return (
        stage
        if wait is None or not wait.needs_people
        else replace(stage, findings=(*stage.findings, stalled(wait.message)))
    )


def _complete(job: FineTuneJob, pods: tuple[PodReport, ...]) -> Stage:
    told = next((pod.termination for pod in pods if pod.termination and pod.termination.result_uri), None)
    uri = (told.result_uri if told else None) or job.spec.output.uri
    destinations = told.destinations if told else ()
    where = ", ".join((uri, *destinations))
    return Stage(
        state=JobState.COMPLETE,
        message=f"the model is at {where}",
        findings=(
            *_TRAINED,
            Finding(ConditionType.PUBLISHED, "True", Reason.PUBLISHED, f"the model is at {where}"),
            Finding(ConditionType.COMPLETE, "True", Reason.SUCCEEDED),
            Finding(ConditionType.FAILED, "False", Reason.SUCCEEDED),
            MOVING,
        ),
        ended=True,
        result_uri=uri,
        destinations=destinations,
    )


def _publishing(
    message: str, *, objects: tuple[dict[str, Any], ...] = (), requeue_after: float = LOOK_SECONDS
) -> Stage:
    return Stage(
        state=JobState.PUBLISHING,
        message=f"publishing: {message}",
        findings=(*_TRAINED, Finding(ConditionType.PUBLISHED, "Unknown", Reason.PUBLISHING, message), MOVING),
        objects=objects,
        requeue_after=requeue_after,
    )


def _suspended(objects: tuple[dict[str, Any], ...]) -> Stage:
    message = "the training is done; its publication is suspended"
    return Stage(
        state=JobState.SUSPENDED,
        message=f"{message}; set run.suspend: false to go on",
        findings=(*_TRAINED, Finding(ConditionType.PUBLISHED, "False", Reason.SUSPENDED_BY_USER, message), MOVING),
        objects=objects,
    )


def _failing(
    job: FineTuneJob, observed: Observed, record: AttemptStatus, child: ChildJob, pods: tuple[PodReport, ...]
) -> Stage:
    cause = latest_cause(pods) or cause_of_attempt(child, pods, observed.now)
    if cause is None:
        return _publishing("the publish pod has failed, its cause is being read", requeue_after=2.0)
    if cause.exit_code in FINAL_CODES:
        reason = fitting(ConditionType.PUBLISHED, cause.reason)
        said = f"{cause.sentence} The training is safe: its checkpoints stay where they are."
        return failed(cause.reason, said, *_TRAINED, Finding(ConditionType.PUBLISHED, "False", reason, said))
    condition = failing(child)
    since = (condition.last_transition_time if condition else None) or child.created
    # Each pause is as long as all that has passed since the training's end: it doubles, with no counter to be lost.
    trained = moment_of(record.completion_time) if record.completion_time else since
    pause = min(LONGEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_SECONDS, (since - trained).total_seconds()))
    waited = seconds_since(since, observed.now)
    stage = _troubled(cause, "The training is safe; the publication is tried again.", max(1.0, pause - waited))
    if waited < pause:
        return stage
    return replace(stage, deletions=(job_reference(publish_name(job.metadata.name)),), requeue_after=2.0)


def _troubled(cause: Cause, note: str, requeue_after: float) -> Stage:
    message = f"{cause.reason}: {cause.sentence} {note}"
    return Stage(
        state=JobState.PUBLISHING,
        message=f"publication failed: {message}",
        findings=(
            *_TRAINED,
            Finding(ConditionType.PUBLISHED, "False", Reason.PUBLICATION_FAILED, message),
            stalled(message),
        ),
        requeue_after=requeue_after,
    )
