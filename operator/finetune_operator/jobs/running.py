"""An attempt whose Job exists: what it does, or what it waits for, and whether it still moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from finetune_operator.api.constants import COMPONENT_TRAIN
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import AttemptStatus
from finetune_operator.jobs.attempts import pods_of
from finetune_operator.jobs.causes import first_cause
from finetune_operator.jobs.children import attempt_job
from finetune_operator.jobs.conditions import Finding
from finetune_operator.jobs.decisions import ChildReference, RenderSettings
from finetune_operator.jobs.inspection import inspected, inspection_status
from finetune_operator.jobs.names import job_reference
from finetune_operator.jobs.observed import ChildJob, Observed, PodReport
from finetune_operator.jobs.stage import MOVING, Stage, stalled
from finetune_operator.jobs.times import moment_of, seconds_since
from finetune_operator.jobs.training import plan_status, planned
from finetune_operator.jobs.waiting import Wait, has_ended, is_without_volumes, why_waiting

SILENCE_SECONDS: Final = 15 * 60.0
"""An attempt whose pods run and that reports nothing for so long does not move: the trainer reports every few seconds."""
RESUME_LOOK_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 15.0
"""Until waiting pods are looked at again: pods are not watched, and the Job's status does not tell why they wait."""
_RUNNING_REASONS: Final = frozenset({Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CANNOT_START, Reason.RENDEZVOUS})


def follow(job: FineTuneJob, observed: Observed, settings: RenderSettings, record: AttemptStatus) -> Stage:
    """Return the stage of an attempt whose Job exists."""
    number = record.number
    file = observed.attempts.get(number)
    child = observed.child(COMPONENT_TRAIN, number)
    suspend = job.spec.run.suspend
    objects: tuple[dict[str, Any], ...] = ()
    deletions: tuple[ChildReference, ...] = ()
    waits = child is not None and child.suspended and not suspend and _pods_still_end(child, observed)
    if child is not None and child.suspended != suspend and not waits:
        if file is not None:
            objects = (attempt_job(job, file, settings),)
        else:  # its ConfigMap was deleted by hand: the Job is made anew with one, under the same number
            deletions = (job_reference(child.name),)
    elif (
        child is not None
        and file is None
        and any(is_without_volumes(pod, observed.now) for pod in pods_of(observed, number))
    ):
        deletions = (job_reference(child.name),)  # the same, seen by pods that cannot start without it
    if suspend or waits:
        stage = _suspended(number, active=waits or bool(child and child.active))
        stage = replace(stage, requeue_after=RESUME_LOOK_SECONDS) if waits else stage
    else:
        stage = _active(job, observed, record, file)
    known = (inspected(job, file.inspection), planned(file.plan)) if file else ()
    return replace(
        stage.after(known),
        objects=objects,
        deletions=deletions,
        inspection=inspection_status(file.inspection) if file else None,
        plan=plan_status(file.plan) if file else None,
        started=not suspend,
    )


def _pods_still_end(child: ChildJob, observed: Observed) -> bool:
    """Whether pods from before the suspension still run.

    A new pod must not start beside them: it bears the same host name, and its peers would meet the old one's rendezvous store and wait for ever
    (seen on a kubelet: resumed 2 s after the suspension).
    """
    alive = any(
        not has_ended(pod) for pod in observed.pods if pod.component == child.component and pod.attempt == child.attempt
    )
    return alive or child.active + child.terminating > 0


def restarting(record: AttemptStatus, wait: float) -> Stage:
    """Return the stage between a failed attempt and the next one."""
    text = f"attempt {record.number} failed: {record.reason}: {record.message}"
    return Stage(
        state=JobState.STARTING,
        message=f"{text.rstrip('. ')}. The next one goes on from the newest verified checkpoint.",
        findings=(
            Finding(ConditionType.PODS_SCHEDULED, "False", Reason.RESTARTING),
            Finding(ConditionType.RUNNING, "False", Reason.RESTARTING, text),
            MOVING,
        ),
        requeue_after=wait,
    )


def told_why(stage: Stage, before: AttemptStatus | None) -> Stage:
    """Return the stage of an attempt that starts, with why it is not the first one."""
    if stage.state is not JobState.STARTING or before is None or before.reason is None:
        return stage
    step = "" if before.last_step is None else f" after step {before.last_step}"
    charged = "charged to run.retries" if before.charged else "not charged to run.retries"
    text = f"attempt {before.number} ended{step}: {before.reason} ({charged}): {before.message.rstrip('. ')}"
    return replace(stage, message=f"{stage.message}; {text}")


def _suspended(number: int, *, active: bool) -> Stage:
    what = "its pods save and stop" if active else "set run.suspend: false to go on from there"
    return Stage(
        state=JobState.SUSPENDED,
        message=f"attempt {number} is suspended; {what}",
        findings=(
            Finding(ConditionType.PODS_SCHEDULED, "False", Reason.SUSPENDED_BY_USER),
            Finding(ConditionType.RUNNING, "False", Reason.SUSPENDED_BY_USER),
            MOVING,
        ),
    )


def newest_pods(observed: Observed, attempt: int) -> tuple[PodReport, ...]:
    """Return one pod per index: after a suspension the pods from before it can still be there."""
    newest: dict[int | str, PodReport] = {}
    for pod in sorted(pods_of(observed, attempt), key=lambda pod: (pod.created, pod.name)):
        newest[pod.name if pod.index is None else pod.index] = pod
    return tuple(newest.values())


def _active(job: FineTuneJob, observed: Observed, record: AttemptStatus, file: AttemptFile | None) -> Stage:
    pods = newest_pods(observed, record.number)
    if cause := first_cause(pods):
        said = f"attempt {record.number} ends: {cause.reason}: {cause.sentence} Kubernetes stops the other pods"
        return Stage(job.status.state or JobState.STARTING, said, requeue_after=2.0)
    expected = (file.plan.pods if file else 1) - sum(has_ended(pod) for pod in pods)
    if (wait := why_waiting(pods, expected, _refusal(observed, record.number))) is not None:
        return _starting(job, observed, record, wait)
    running_since = _scheduled_since(job)
    reported = _last_report(job, record)
    training = running_since is not None and reported is not None and reported >= running_since and _has_steps(job)
    heard = max((moment for moment in (running_since, reported) if moment is not None), default=observed.now)
    silence = seconds_since(heard, observed.now)
    moving = MOVING
    if silence >= SILENCE_SECONDS:
        text = f"attempt {record.number} runs, and its trainer has not reported for 15 minutes; look at the pods' logs"
        moving = stalled(text)
    doing, running = _doing(job) if training else ("loads the model and makes its first step", Reason.STARTING)
    left = SILENCE_SECONDS - silence
    return Stage(
        state=JobState.RUNNING if training else JobState.STARTING,
        message=moving.message or f"attempt {record.number} {doing}",
        findings=(
            Finding(ConditionType.PODS_SCHEDULED, "True", Reason.SCHEDULED),
            Finding(ConditionType.RUNNING, "True" if training else "False", running),
            moving,
        ),
        requeue_after=left if left > 0 else SILENCE_SECONDS,
    )


def _doing(job: FineTuneJob) -> tuple[str, Reason]:
    """Return what an attempt does that has made steps, in words and as a reason."""
    rows = job.status.progress.evaluation if job.status.progress else None
    if rows is None:
        return "trains", Reason.TRAINING
    return f"has trained, and evaluates the model: {rows} rows", Reason.EVALUATING


def _starting(job: FineTuneJob, observed: Observed, record: AttemptStatus, wait: Wait) -> Stage:
    wait = _with_volume(job, observed, record, wait)
    since = [moment_of(record.start_time)] if record.start_time else []
    if resumed := job.status.condition(ConditionType.SUSPENDED):
        since.append(moment_of(resumed.last_transition_time))
    lives = seconds_since(max(since, default=observed.now), observed.now)
    stuck = wait.needs_people or lives >= SILENCE_SECONDS
    unscheduled = Reason.UNSCHEDULABLE if wait.reason is Reason.UNSCHEDULABLE else Reason.CREATING_PODS
    scheduled = (
        Finding(ConditionType.PODS_SCHEDULED, "True", Reason.SCHEDULED)
        if wait.scheduled
        else Finding(ConditionType.PODS_SCHEDULED, "False", unscheduled, wait.message)
    )
    running = wait.reason if wait.reason in _RUNNING_REASONS else Reason.WAITING_FOR_PODS
    return Stage(
        state=JobState.STARTING,
        message=f"attempt {record.number}: {wait.message}",
        findings=(
            scheduled,
            Finding(ConditionType.RUNNING, "False", running, wait.message),
            stalled(wait.message) if stuck else MOVING,
        ),
        requeue_after=LOOK_SECONDS,
    )


def _with_volume(job: FineTuneJob, observed: Observed, record: AttemptStatus, wait: Wait) -> Wait:
    """Name the volume of model.cache where containers are late: that it cannot be mounted stands in Events of the pod only, and looks like a pull."""
    late = (pod for pod in newest_pods(observed, record.number) if is_without_volumes(pod, observed.now))
    pod = next(late, None) if wait.reason is Reason.WAITING_FOR_PODS else None
    if pod is None or job.spec.model.cache is None:
        return wait
    text = (
        f"the image is pulled, or the volume of model.cache cannot be mounted (kubectl describe pod {pod.name} tells)"
    )
    return replace(wait, message=f"{wait.message}; {text}")


def _refusal(observed: Observed, attempt: int) -> str:
    child = observed.child(COMPONENT_TRAIN, attempt)
    return observed.refusals.get(child.name, "") if child else ""


def _scheduled_since(job: FineTuneJob) -> datetime | None:
    condition = job.status.condition(ConditionType.PODS_SCHEDULED)
    if condition is None or condition.status != "True":
        return None
    return moment_of(condition.last_transition_time)


def _last_report(job: FineTuneJob, record: AttemptStatus) -> datetime | None:
    """Return when this attempt's trainer reported last; an image that does not tell its attempt is believed to be this one's."""
    progress = job.status.progress
    if progress is None or progress.last_updated_time is None or progress.attempt not in (None, record.number):
        return None
    return moment_of(progress.last_updated_time)


def _has_steps(job: FineTuneJob) -> bool:
    progress = job.status.progress
    return progress is not None and progress.step is not None and progress.step >= 1
