"""From Pod objects to `PodReport`: what of a pod explains the state of its job, and nothing else of it.

Of container output only the termination message is read, which our trainer writes without row content or secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from finetune_operator.api.constants import ATTEMPT_LABEL
from finetune_operator.api.progress import TerminationMessage
from finetune_operator.controller.cache import CachedChild, controller_uid
from finetune_operator.controller.kube import Body
from finetune_operator.jobs.observed import PodReport
from finetune_operator.jobs.times import moment_of

_INDEX: Final = "batch.kubernetes.io/job-completion-index"
_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})
"""Waiting reasons of every pod that starts; they explain nothing."""


def pod_reports(pods: Iterable[Body], children: Iterable[CachedChild]) -> tuple[PodReport, ...]:
    """Return the pods that these batch Jobs control, by name; the labels alone could be anybody's."""
    owners = {child.uid: child for child in children}
    reports = (pod_report(pod, owners[controller_uid(pod)]) for pod in pods if controller_uid(pod) in owners)
    return tuple(sorted(reports, key=lambda report: report.name))


def pod_report(pod: Body, child: CachedChild) -> PodReport:
    """Return one pod's report."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    attempt = labels.get(ATTEMPT_LABEL, "")
    index = str(labels.get(_INDEX, annotations.get(_INDEX, "")))
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    container = _main_container(pod, status)
    waiting = _waiting(status)
    ended = _ended(container)
    running = (container.get("state") or {}).get("running") or {}
    return PodReport(
        name=metadata["name"],
        component=child.job.component,
        attempt=int(attempt) if attempt.isdigit() else child.job.attempt,
        index=int(index) if index.isdigit() else None,
        phase=status.get("phase", "Unknown"),
        created=moment_of(metadata["creationTimestamp"]),
        scheduled=scheduled.get("status") == "True",
        scheduled_at=_moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        started=_moment(running.get("startedAt") or ended.get("startedAt")),
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        node=pod["spec"].get("nodeName", ""),
        running="running" in (container.get("state") or {}),
        exit_code=ended.get("exitCode"),
        # An evicted pod may have no container status left; the kubelet's word then stands on the pod itself.
        container_reason=ended.get("reason") or (status.get("reason", "") if not ended else ""),
        deleted="deletionTimestamp" in metadata,
        termination=_termination(ended.get("message", "")),
        finished=_moment(ended.get("finishedAt")),
        disrupted=(disruption.get("message") or "disrupted") if disruption.get("status") == "True" else "",
    )


def _moment(text: str | None) -> datetime | None:
    return moment_of(text) if text else None


def _main_container(pod: Body, status: Mapping[str, Any]) -> Mapping[str, Any]:
    name = pod["spec"]["containers"][0]["name"]
    return next((found for found in status.get("containerStatuses") or () if found["name"] == name), {})


def _waiting(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first waiting state that explains something, of init containers as well."""
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    states = ((container.get("state") or {}).get("waiting") for container in containers)
    return next((state for state in states if state and state.get("reason") not in _STARTING), {})


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any]:
    for state in ("state", "lastState"):
        if ended := (container.get(state) or {}).get("terminated"):
            return dict(ended)
    return {}


def _termination(text: str) -> TerminationMessage | None:
    """Return the trainer's last words; a killed process leaves none, a user's image other ones."""
    line = text.strip().rpartition("\n")[2]
    try:
        return TerminationMessage.model_validate_json(line) if line else None
    except ValidationError:
        return None
