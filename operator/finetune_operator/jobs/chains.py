"""Where a job starts from that names another job: resolved anew at every look until its own training has begun, never after.

A waiting job takes nothing. It is looked at again when the other job changes, appears or goes, and every minute in case that was not heard of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_operator.api.chains import source_of, starting_at
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.locations import CHAIN_SCHEME
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import SourceStatus
from finetune_operator.jobs.conditions import Finding, Truth
from finetune_operator.jobs.observed import SourceJob
from finetune_operator.jobs.stage import MOVING, Stage, stalled

LOOK_SECONDS: Final = 60.0


def resolved(
    job: FineTuneJob, source: SourceJob | None, files: Mapping[int, AttemptFile]
) -> tuple[FineTuneJob, SourceStatus | None] | Stage:
    """Return the job with the place that it starts from and what status says of it, or the wait for that place; `files` are its attempts'."""
    name = source_of(job.spec)
    if name is None:
        return job, None
    known = _known(job, name, files)
    if known is None or (not _has_begun(job) and source is not None and source.uid != known.uid):
        if source is None or source.result_uri is None:
            return _waiting(job, name, source)
        known = SourceStatus(job=name, uid=source.uid, uri=source.result_uri)
    return job.model_copy(update={"spec": starting_at(job.spec, known.uri)}), known


def _has_begun(job: FineTuneJob) -> bool:
    return job.status.start_time is not None


def _known(job: FineTuneJob, name: str, files: Mapping[int, AttemptFile]) -> SourceStatus | None:
    """Return what was found before: by the status, or where that was lost by the file of the newest attempt."""
    known = job.status.source
    if known is not None:
        return known if known.job == name else None
    if not files or job.status.conditions:
        return None
    newest = files[max(files)]
    lineage = newest.inspection.model.lineage
    return SourceStatus(job=name, uid=lineage.uid if lineage else "", uri=newest.spec.model.uri)


def _waiting(job: FineTuneJob, name: str, source: SourceJob | None) -> Stage:
    namespace, own = job.metadata.namespace, job.metadata.name
    uri = f"{CHAIN_SCHEME}{name}"
    if name == own or (source is not None and own in source.waits_for):
        circle = [own, name, *(source.waits_for if source and name != own else ())]
        way = " → ".join(circle[: circle.index(own, 1) + 1])
        message = f"model.uri: {uri}: the jobs wait for one another ({way}); let one of them start from a place"
        return _said(message, Finding(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, message), stalled(message))
    if source is None:
        message = (
            f"model.uri: {uri}: there is no FineTuneJob {name} in namespace {namespace}; create it, or name another"
        )
        return _said(message, _inspected("False", Reason.SOURCE_NOT_FOUND, message), stalled(message))
    if source.has_failed:
        message = (
            f"model.uri: {uri}: that job has no result: {source.message or 'it has failed'}. Mend it, delete it and create it anew, or "
            "name another"
        )
        return _said(message, _inspected("False", Reason.SOURCE_FAILED, message), stalled(message))
    message = f"waiting for the result of job {name}, which is {source.state}"
    return _said(message, _inspected("Unknown", Reason.WAITING_FOR_JOB, message), MOVING)


def _inspected(status: Truth, reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.INSPECTED, status, reason, message)


def _said(message: str, *findings: Finding) -> Stage:
    return Stage(
        JobState.PENDING,
        message,
        (
            Finding(ConditionType.PLANNED, "Unknown", Reason.WAITING_FOR_INSPECTION),
            Finding(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PLAN),
            *findings,
        ),
        requeue_after=LOOK_SECONDS,
    )
