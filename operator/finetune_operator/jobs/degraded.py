"""What was worked around while a job goes on: condition `Degraded`, from what its trainer reports."""

from __future__ import annotations

from finetune_operator.api.constants import COMPONENT_TRAIN
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.progress import (
    METRIC_CHECKPOINTS_REJECTED,
    METRIC_SLOW_RANK,
    METRIC_SLOW_RANK_RATIO,
    METRIC_SLOW_RANK_SHARE,
    METRIC_TRACKERS_FAILING,
)
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.jobs.conditions import Finding, is_finished
from finetune_operator.jobs.observed import Observed


def degraded(job: FineTuneJob, observed: Observed) -> Finding:
    """Return the condition. A damaged checkpoint stays true of the job; a slow rank only as long as it is one, and while the job runs."""
    reported = {metric.name: metric.value for metric in job.status.progress.metrics} if job.status.progress else {}
    rejected = reported.get(METRIC_CHECKPOINTS_REJECTED, "")
    slow = "" if is_finished(job.status) else _slow_rank(job, observed, reported)
    old = job.status.condition(ConditionType.DEGRADED)
    said = ""
    if rejected not in ("0", "0.0", ""):
        said = f"checkpoints that were damaged or cut off, and passed over for older ones: {rejected}; look at the bucket and its rules"
    elif old is not None and old.reason is Reason.CHECKPOINT_REJECTED:
        # Each attempt counts from 0: what an earlier one has found stays true of the job.
        said = old.message.partition(_AND)[0]
    trackers = reported.get(METRIC_TRACKERS_FAILING, "")
    failing = f"trackers that do not work, without which the training goes on: {trackers}; the log of rank 0 says why"
    # In this order: the slow rank is looked for in the last part of an old message, the checkpoints in the first.
    found = [
        (reason, text)
        for reason, text in (
            (Reason.CHECKPOINT_REJECTED, said),
            (Reason.TRACKER_FAILED, failing if trackers else ""),
            (Reason.SLOW_RANK, slow),
        )
        if text
    ]
    if not found:
        return Finding(ConditionType.DEGRADED, "False", Reason.HEALTHY)
    return Finding(ConditionType.DEGRADED, "True", found[0][0], _AND.join(text for _, text in found))


_AND = ". And "


def _slow_rank(job: FineTuneJob, observed: Observed, reported: dict[str, str]) -> str:
    progress = job.status.progress
    try:
        rank = int(float(reported[METRIC_SLOW_RANK]))
        ratio, share = float(reported[METRIC_SLOW_RANK_RATIO]), float(reported[METRIC_SLOW_RANK_SHARE])
    except (KeyError, ValueError):
        return ""
    attempt = progress.attempt if progress else None
    file = observed.attempts.get(attempt) if attempt is not None else None
    index = rank // file.plan.processes_per_pod if file else None
    pod = next(
        (
            pod
            for pod in observed.pods
            if pod.component == COMPONENT_TRAIN and pod.attempt == attempt and pod.index == index and pod.running
        ),
        None,
    )
    old = job.status.condition(ConditionType.DEGRADED)
    place = f" (pod {pod.name} on node {pod.node})" if pod is not None and index is not None else ""
    said = (
        f"rank {rank}{place} takes {ratio:.1f} times as long as its peers, which wait for it in {share:.0%} of the time"
    )
    # Pods are looked at now and then: what was known of the place is not forgotten, and small changes of the numbers are no news.
    before = old.message.rpartition(_AND)[2] if old is not None else ""
    return before if before.startswith(f"rank {rank} ") and (not place or place in before) else said
