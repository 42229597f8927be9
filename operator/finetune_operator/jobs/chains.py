"""Where a job starts from that names other jobs: resolved anew at every look until its own training has begun, never after.

A waiting job takes nothing. It is looked at again when the other job changes, appears or goes, and every minute in case that was not heard of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.chains import MODEL_FIELD, model_fields, named_job, starting_at
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.locations import CHAIN_SCHEME
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.api.status import SourceStatus
from finetune_operator.jobs.conditions import Finding, Truth
from finetune_operator.jobs.observed import SourceJob
from finetune_operator.jobs.stage import MOVING, Stage, stalled

LOOK_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Sources:
    """What status says of the jobs that are named."""

    model: SourceStatus | None = None
    others: tuple[SourceStatus, ...] = ()
    """Of reward models and the teacher, each once."""


def resolved(
    job: FineTuneJob, sources: Mapping[str, SourceJob], files: Mapping[int, AttemptFile]
) -> tuple[FineTuneJob, Sources] | Stage:
    """Return the job with the places that it starts from and what status says of them, or the wait for one; `files` are its attempts'."""
    known: dict[str, tuple[str, SourceStatus]] = {}
    waits: list[Stage] = []
    for index, (field, uri) in enumerate(model_fields(job.spec)):
        name = named_job(uri)
        if name is None or name in known:
            continue
        source, before = sources.get(name), _known(job, name, index, files)
        is_another = source is not None and before is not None and bool(before.uid) and source.uid != before.uid
        if before is not None and (_has_begun(job) or not is_another):
            known[name] = (field, before)
        elif source is None or source.result_uri is None:
            waits.append(_waiting(job, field, name, source))
        else:
            known[name] = (field, SourceStatus(job=name, uid=source.uid, uri=source.result_uri))
    if waits:
        # What somebody must mend is told before what only takes time.
        return next((wait for wait in waits if MOVING not in wait.findings), waits[0])
    places = {name: found.uri for name, (_, found) in known.items()}
    model = next((found for field, found in known.values() if field == MODEL_FIELD), None)
    others = tuple(found for field, found in known.values() if field != MODEL_FIELD)
    return job.model_copy(update={"spec": starting_at(job.spec, places)}), Sources(model, others)


def _has_begun(job: FineTuneJob) -> bool:
    return job.status.start_time is not None


def _known(job: FineTuneJob, name: str, index: int, files: Mapping[int, AttemptFile]) -> SourceStatus | None:
    """Return what was found before: by the status, or where that was lost by the same field in the file of the newest attempt."""
    before = job.status
    told = next((each for each in (before.source, *before.sources) if each is not None and each.job == name), None)
    if told is not None or not files or before.conditions:
        return told
    newest = files[max(files)]
    fields = model_fields(newest.spec)
    if index >= len(fields):
        return None
    field, uri = fields[index]
    lineage = newest.inspection.model.lineage if field == MODEL_FIELD else None
    return SourceStatus(job=name, uid=lineage.uid if lineage else "", uri=uri)


def _waiting(job: FineTuneJob, field: str, name: str, source: SourceJob | None) -> Stage:
    namespace, own = job.metadata.namespace, job.metadata.name
    uri = f"{CHAIN_SCHEME}{name}"
    if name == own or (source is not None and own in source.waits_for):
        circle = [own, name, *(source.waits_for if source and name != own else ())]
        way = " → ".join(circle[: circle.index(own, 1) + 1])
        message = f"{field}: {uri}: the jobs wait for one another ({way}); let one of them start from a place"
        return _said(message, Finding(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC, message), stalled(message))
    if source is None:
        message = f"{field}: {uri}: there is no FineTuneJob {name} in namespace {namespace}; create it, or name another"
        return _said(message, _inspected("False", Reason.SOURCE_NOT_FOUND, message), stalled(message))
    if source.has_failed:
        message = (
            f"{field}: {uri}: that job has no result: {source.message or 'it has failed'}. Mend it, delete it and create it anew, or "
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
