"""The status as the reconciler writes it: what counts as a change, and what it says itself when it cannot decide."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.reasons import JobState, Reason
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.controller.kube import ApiError, Body
from finetune_operator.jobs.conditions import Finding, set_condition
from finetune_operator.jobs.stage import stalled


def comparable(status: Mapping[str, Any]) -> Body:
    """Return what of a status counts when asking whether to write: not `progress`, which is another manager's, nor times.

    A condition's lastTransitionTime alone is no change: it belongs to `status`, and two runs on stale data would else
    write each other's time for ever.
    """
    rest = {name: value for name, value in status.items() if name not in ("progress", "conditions") and value != []}
    conditions = {
        condition["type"]: {name: value for name, value in condition.items() if name != "lastTransitionTime"}
        for condition in status.get("conditions") or ()
    }
    return {**rest, "conditions": conditions}


def refusal_text(what: str, error: ApiError) -> str:
    """Return the API server's words with what they are about."""
    return f"the API server refuses {what} the job ({error.status} {error.reason}): {error.message}"


def with_refusal(job: FineTuneJob, status: FineTuneJobStatus, error: ApiError, now: datetime) -> FineTuneJobStatus:
    """Return the status with condition Stalled and the API server's words: people see why nothing happens."""
    finding = stalled(refusal_text("an object of", error), Reason.CLUSTER_REFUSED)
    condition = set_condition(job.status.condition(finding.type), finding, job.metadata.generation, now)
    others = [found for found in status.conditions if found.type is not finding.type]
    return status.model_copy(update={"message": condition.message, "conditions": [*others, condition]})


def saying(body: Body, finding: Finding, now: str) -> Body:
    """Return the status of a job with one more thing said; it may be one that our models cannot read."""
    status: Body = dict(body.get("status") or {})
    conditions: list[Body] = list(status.get("conditions") or ())
    old: Body = next((found for found in conditions if found["type"] == str(finding.type)), {})
    generation = body["metadata"].get("generation", 1)
    new = {
        "type": str(finding.type),
        "status": finding.status,
        "reason": str(finding.reason),
        "message": finding.message,
        "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == finding.status else now,
        "observedGeneration": generation,
    }
    others = [found for found in conditions if found["type"] != new["type"]]
    said = {"observedGeneration": generation, "message": finding.message, "conditions": [*others, new]}
    return {"state": str(JobState.PENDING), **status, **said}
