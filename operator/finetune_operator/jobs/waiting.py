"""Why pods do not run: the one answer that people look for, from the scheduler's and the kubelet's own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_operator.jobs.observed import PodReport
from finetune_operator.jobs.times import seconds_since

VOLUME_SECONDS: Final = 10.0
"""From a pod's creation to the suspicion that its volumes are not to be had; the kubelet tells that in Events only."""

_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_LOST_CLAIM: Final = re.compile(r'persistentvolumeclaim "[^"]+" (not found|bound to non-existent persistentvolume)')
"""The scheduler's words (plugin VolumeBinding, Kubernetes 1.36) for a claim that no time brings back."""
_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Wait:
    """What pods wait for."""

    reason: Reason
    message: str
    scheduled: bool
    """Every pod has a node."""
    needs_people: bool = False
    """It will hardly mend itself."""


def why_waiting(pods: Sequence[PodReport], expected: int, refused: str = "") -> Wait | None:
    """Return why not all `expected` pods run, or None when they do or have ended. The worst of several reasons is named.

    `refused` is what Kubernetes said to the creation of pods that are missing.
    A pod whose container has ended counts as ended although its phase lags behind: the kubelet sets it a second later.
    """
    if expected <= 0:
        return None
    alive = [pod for pod in pods if not has_ended(pod)]
    unscheduled = [pod for pod in alive if not pod.scheduled]
    if refused and len(alive) < expected:
        text = f"{_count(expected - len(alive), expected)} cannot be created: {refused}"
        if 'volume "model-cache"' in refused and "hostPath" in refused:
            text += (
                "; model.cache.node needs a namespace of Pod Security level privileged: have it labelled so, or delete the job and name a claim "
                "in model.cache"
            )
        return Wait(Reason.CREATING_PODS, text, scheduled=False, needs_people=True)
    if unfit := next((pod for pod in unscheduled if pod.unschedulable), None):
        text = f"{_count(len(unscheduled), expected)} cannot be scheduled: {unfit.unschedulable}"
        if _LOST_CLAIM.search(unfit.unschedulable):
            text = f"{text.rstrip('. ')}; create that claim in the job's namespace, or delete the job and name another in model.cache"
            return Wait(Reason.UNSCHEDULABLE, text, scheduled=False, needs_people=True)
        return Wait(Reason.UNSCHEDULABLE, text, scheduled=False)
    scheduled = not unscheduled and len(alive) >= expected
    for pod in alive:
        if pod.waiting_reason:
            reason = Reason.IMAGE_PULL_FAILED if pod.waiting_reason in _IMAGE else Reason.CONTAINER_CANNOT_START
            said = f": {pod.waiting_message}" if pod.waiting_message else ""
            text = f"pod {pod.name} cannot start: {pod.waiting_reason}{said}"
            return Wait(reason, text, scheduled=scheduled, needs_people=True)
    if len(alive) < expected or unscheduled:
        text = f"{expected - len(alive) + len(unscheduled)} of {expected} pods not created or not scheduled yet"
        return Wait(Reason.CREATING_PODS, text, scheduled=False)
    running = sum(pod.running for pod in alive)
    if running == 0:
        return Wait(Reason.WAITING_FOR_PODS, "the pods have nodes, their containers are being created", scheduled=True)
    if running < expected:
        return Wait(Reason.RENDEZVOUS, f"{running} of {expected} pods run; ranks wait for the others", scheduled=True)
    return None


def has_ended(pod: PodReport) -> bool:
    """Whether the pod's container will not run again."""
    return pod.phase in _ENDED or pod.exit_code is not None


def is_without_volumes(pod: PodReport, now: datetime) -> bool:
    """Whether a pod has a node and no container for so long that a volume may be missing, such as its plan, deleted by hand."""
    starting = pod.scheduled and not pod.running and not pod.waiting_reason and not has_ended(pod)
    return starting and seconds_since(pod.created, now) >= VOLUME_SECONDS


def _count(number: int, expected: int) -> str:
    return "the pod" if expected == 1 else f"{number} of {expected} pods"
