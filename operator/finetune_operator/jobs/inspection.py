"""The inspection: whose report is good enough, when the inspect Job runs, and what its failures mean.

A report about a model that no table knows comes back for a second inspection, in the trainer's image, which traces the model: the same Job with other
arguments. It is wanted as long as the stored report lacks what it would tell, so nothing has to be remembered of it.

What the user must mend in the job (spec, rows, an occupied output) ends it. What time or an administrator can mend (a bucket that refuses, a store
that is down) is said at once and tried again without end: by the batch Job with growing pauses, and when its backoffLimit is reached, by a new one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from finetune_operator.api.constants import COMPONENT_INSPECT
from finetune_operator.api.inspection import InspectionReport, Lineage, Origin, ResumePoint, inspection_key
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import AttemptStatus, InspectionStatus, ResumeStatus
from finetune_operator.jobs.attempts import Attempts
from finetune_operator.jobs.causes import PATIENCE_SECONDS, cause_of_attempt, failing, latest_cause
from finetune_operator.jobs.children import FINAL_CODES, inspect_job, inspection_config_map
from finetune_operator.jobs.conditions import Finding, fitting
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.names import config_map_reference, inspect_name, inspection_name, job_reference, spec_hash
from finetune_operator.jobs.observed import ChildJob, Observed, PodReport
from finetune_operator.jobs.retry import Cause
from finetune_operator.jobs.stage import MOVING, Stage, failed, stalled
from finetune_operator.jobs.times import moment_of, seconds_since
from finetune_operator.jobs.waiting import why_waiting

REPORT_VALID_SECONDS: Final = 24 * 3600.0
"""How long another job's report is used; a job's own is used as long as its training finds the inputs unchanged."""
START_ANEW_SECONDS: Final = 60.0
"""From the end of an inspect Job that has used all its tries to the next Job."""
REPORT_PATIENCE_SECONDS: Final = 60.0
"""From the end of an inspect Job to the arrival of its report, before it is run again."""
PROBLEMS_SHOWN: Final = 10

_WAITING: Final = (
    Finding(ConditionType.PLANNED, "Unknown", Reason.WAITING_FOR_INSPECTION),
    Finding(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PLAN),
)


def usable_report(job: FineTuneJob, observed: Observed, attempts: Attempts) -> InspectionReport | None:
    """Return the report that a plan may be made of, or None when the inspect Job must run."""
    report = observed.inspection
    if report is None or report.key != inspection_key(job.metadata.namespace, job.spec):
        return None
    if not observed.inspection_owned and observed.inspection_age_seconds > REPORT_VALID_SECONDS:
        return None
    stale = _refuted(attempts, observed)
    if stale is not None and moment_of(report.finished_at) <= moment_of(stale.finished_at):
        return None
    return report


def unusable(job: FineTuneJob, report: InspectionReport) -> Stage | None:
    """Return the end of a job whose data set has too many unusable rows, also when another job's report says so."""
    facts = report.dataset
    counts = [(each.uri, each.usable, each.dropped) for each in facts.sources] or [
        (facts.uri, facts.rows, facts.dropped)
    ]
    for dataset, (uri, rows, dropped) in zip(job.spec.all_datasets, counts, strict=False):
        share = dropped / max(1, rows + dropped)
        allowed = dataset.filters.max_dropped
        if rows > 0 and share <= allowed:
            continue
        lines = "; ".join(problems(report))
        message = (
            f"{dropped} of {rows + dropped} rows of {uri} are unusable ({share:.1%}; dataset.filters.maxDropped "
            f"allows {allowed:.1%}): {lines}. Mend these rows, or raise maxDropped"
        )
        said = Finding(ConditionType.INSPECTED, "False", Reason.INVALID_DATA, message)
        return failed(Reason.INVALID_DATA, message, said)
    return None


def problems(report: InspectionReport) -> list[str]:
    """Return the first unusable rows as file:line: reason."""
    return [f"{problem.file}:{problem.line}: {problem.reason}" for problem in report.dataset.problems[:PROBLEMS_SHOWN]]


def inspected(job: FineTuneJob, report: InspectionReport) -> Finding:
    """Return what the condition says of a usable report."""
    own = report.job == f"{job.metadata.namespace}/{job.metadata.name}"
    facts = report.dataset
    dropped = f", {facts.dropped} unusable rows left out" if facts.dropped else ""
    dropped += f", {facts.filtered} by filters" if facts.filtered else ""
    traced = ", traced" if report.model.trace is not None else ""
    lineage = report.model.lineage
    chained = f", the result of job {lineage.job}" if lineage else ""
    resume = f"; goes on after step {report.resume.step} of {report.resume.uri}" if report.resume else ""
    several = f" of {len(facts.sources)} data sets" if facts.sources else ""
    message = f"{facts.rows} rows{several}{dropped}; {report.model.architecture}, {report.model.parameters} parameters{traced}{chained}{resume}"
    if own:
        return Finding(ConditionType.INSPECTED, "True", Reason.INSPECTED, message)
    return Finding(ConditionType.INSPECTED, "True", Reason.INSPECTION_REUSED, f"{message}; inspected for {report.job}")


def inspection_status(report: InspectionReport) -> InspectionStatus:
    """Return the inspection in short."""
    return InspectionStatus(
        architecture=report.model.architecture,
        parameters=report.model.parameters,
        revision=report.model.revision,
        format=report.dataset.format,
        rows=report.dataset.rows,
        dropped=report.dataset.dropped,
        problems=problems(report),
        tokens=report.dataset.tokens.total,
        longest=report.dataset.tokens.maximum,
        report_uri=report.report_uri,
        resume=_resume_status(report.resume),
        lineage=_lineage_status(report.model.lineage),
    )


def _lineage_status(lineage: Lineage | None) -> Origin | None:
    if lineage is None:
        return None
    return Origin(**lineage.model_dump(include=set(Origin.model_fields)))


def _resume_status(point: ResumePoint | None) -> ResumeStatus | None:
    return None if point is None else ResumeStatus(uri=point.uri, job=point.job, step=point.step)


def own_copy(job: FineTuneJob, report: InspectionReport, observed: Observed) -> tuple[dict[str, Any], ...]:
    """Return the ConfigMap to write when the report is another job's, which may be deleted at any time."""
    return () if observed.inspection_owned else (inspection_config_map(job.metadata, report),)


def inspecting(
    job: FineTuneJob,
    observed: Observed,
    settings: RenderSettings,
    attempts: Attempts,
    untraced: InspectionReport | None = None,
) -> Stage:
    """Return the stage of a job without a usable report, or with one, `untraced`, that lacks the trace of its model."""
    child = observed.child(COMPONENT_INSPECT)
    wanted = inspect_job(job, settings, trace=untraced is not None)
    pods = tuple(pod for pod in observed.pods if pod.component == COMPONENT_INSPECT)
    if child is None:
        said = "creating the inspect pod" if untraced is None else _tracing(untraced)
        return _in_work(said, objects=(wanted,), requeue_after=5.0)
    if child.deleting:
        return _in_work("the inspect Job is being replaced", requeue_after=5.0)
    if untraced is not None and child.spec_hash != spec_hash(wanted):
        # Only the Job goes: its report stays, and tells the next look to make the one that traces.
        deletions = (job_reference(inspect_name(job.metadata.name)),)
        return _in_work(_tracing(untraced), deletions=deletions, requeue_after=2.0)
    if untraced is None and _is_outdated(child, spec_hash(wanted), attempts, observed):
        stale = observed.inspection is not None and observed.inspection_owned
        reports = (config_map_reference(inspection_name(job.metadata.name)),) if stale else ()
        deletions = (job_reference(inspect_name(job.metadata.name)), *reports)
        return _in_work("the inputs are inspected again", deletions=deletions, requeue_after=2.0)
    if failing(child) is not None:
        return _failing(job, child, pods, observed)
    if child.has_condition("Complete"):
        return _without_report(job, child, observed)
    reading = "reading the model's config and every row" if untraced is None else _tracing(untraced)
    return _running(pods, observed.refusals.get(child.name, ""), reading)


def _tracing(report: InspectionReport) -> str:
    model_type = report.model.config.get("model_type")
    return f"no table knows model_type {model_type!r}: the trainer's image traces the model on fake tensors"


def _refuted(attempts: Attempts, observed: Observed) -> InspectionReport | None:
    """Return the report that the newest attempt found to be outdated."""
    latest = attempts.latest
    if latest is None or latest.reason is not Reason.INPUTS_CHANGED:
        return None
    file = observed.attempts.get(latest.number)
    return file.inspection if file else None


def _is_outdated(child: ChildJob, wanted: str, attempts: Attempts, observed: Observed) -> bool:
    latest: AttemptStatus | None = attempts.latest
    if latest is not None and latest.reason is Reason.INPUTS_CHANGED and latest.start_time is not None:
        # Both times are the API server's: an inspect Job from before the refuted attempt has read the old inputs.
        return child.created < moment_of(latest.start_time)
    # A finished Job is not replaced because a newer operator would render another one; its report has come or its failure is known.
    changed = child.spec_hash not in ("", wanted)
    return changed and (not child.has_condition("Complete") or observed.inspection is not None)


def _in_work(message: str, **parts: Any) -> Stage:
    said = Finding(ConditionType.INSPECTED, "Unknown", Reason.INSPECTING, message)
    stage = Stage(JobState.INSPECTING, f"inspecting: {message}", (*_WAITING, said, MOVING))
    return replace(stage, **parts)


def _troubled(cause: Cause, note: str, **parts: Any) -> Stage:
    reason = fitting(ConditionType.INSPECTED, cause.reason)
    message = f"{cause.sentence} {note}"
    said = Finding(ConditionType.INSPECTED, "False", reason, message)
    stage = Stage(JobState.INSPECTING, f"inspection failed: {message}", (*_WAITING, said, stalled(message)))
    return replace(stage, **parts)


def _failing(job: FineTuneJob, child: ChildJob, pods: tuple[PodReport, ...], observed: Observed) -> Stage:
    cause = latest_cause(pods) or cause_of_attempt(child, pods, observed.now)
    if cause is None:
        return _in_work("the inspect pod has failed, its cause is being read", requeue_after=PATIENCE_SECONDS / 4)
    if cause.exit_code in FINAL_CODES:
        reason = fitting(ConditionType.INSPECTED, cause.reason)
        return failed(
            cause.reason, cause.message, Finding(ConditionType.INSPECTED, "False", reason, cause.message), _WAITING[0]
        )
    condition = failing(child)
    since = condition.last_transition_time if condition else None
    waited = seconds_since(since or child.created, observed.now)
    note = "It is tried again with a new pod every minute or so."
    if waited >= START_ANEW_SECONDS:
        return _troubled(cause, note, deletions=(job_reference(inspect_name(job.metadata.name)),), requeue_after=2.0)
    return _troubled(cause, note, requeue_after=START_ANEW_SECONDS - waited)


def _without_report(job: FineTuneJob, child: ChildJob, observed: Observed) -> Stage:
    waited = seconds_since(child.completed or child.created, observed.now)
    if waited < REPORT_PATIENCE_SECONDS:
        return _in_work(
            "the inspect pod is done, its report is on its way",
            requeue_after=min(5.0, REPORT_PATIENCE_SECONDS - waited),
        )
    reference = job_reference(inspect_name(job.metadata.name))
    return _in_work("the report did not arrive; inspecting again", deletions=(reference,), requeue_after=2.0)


def _running(pods: tuple[PodReport, ...], refused: str, reading: str) -> Stage:
    if (cause := latest_cause(pods)) is not None:
        return _troubled(cause, "It is tried again.", requeue_after=30.0)
    if any(pod.exit_code == 0 for pod in pods):
        return _in_work("the inspect pod is done, its report is on its way", requeue_after=30.0)
    wait = why_waiting(pods, 1, refused)
    if wait is None:
        return _in_work(reading, requeue_after=30.0)
    stage = _in_work(wait.message, requeue_after=15.0)
    return replace(stage, findings=(*stage.findings, stalled(wait.message))) if wait.needs_people else stage
