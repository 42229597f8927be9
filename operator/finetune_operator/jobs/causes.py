"""Why pods ended: the first cause in time among an attempt's pods, told apart from its symptoms.

When one rank dies the others lose it within a second and say so, and Kubernetes stops the rest: of all the endings of an attempt one is the cause.
`PeerLost` and `Terminated` are symptoms, and taken as the cause only when nothing else is named for ten seconds. Evicted pods may be gone by then;
the batch Job's own condition still names pod and exit code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from finetune_operator.api.exit_codes import ExitCode, ExitMeaning, meaning_of
from finetune_operator.api.reasons import Reason
from finetune_operator.jobs.observed import ChildCondition, ChildJob, PodReport
from finetune_operator.jobs.retry import Cause, cause_of_message
from finetune_operator.jobs.times import seconds_since

PATIENCE_SECONDS: Final = 10.0
"""How long a symptom waits for another pod's cause."""
SIGTERM_EXIT_CODE: Final = 143

_OUT_OF_MEMORY: Final = "OOMKilled"
_COUNTED: Final = "BackoffLimitExceeded"
"""Of all endings of a training pod its Job counts only those by SIGTERM, and that of a pod which is deleted before anybody has read its end."""
_SYMPTOMS: Final = frozenset({Reason.PEER_LOST, Reason.TERMINATED})
_STOPPED: Final = _SYMPTOMS | {Reason.RANK_KILLED}
"""How pods end that a suspension stops; killed are those that need longer than their grace period."""
_STOPPED_CODES: Final = frozenset(
    {None, ExitCode.OK, ExitCode.BUG, ExitCode.TERMINATED, ExitCode.PEER_LOST, ExitCode.KILLED, SIGTERM_EXIT_CODE}
)
"""How a pod can end that was taken away; any other code names a cause of its own."""
_KILLABLE_CODES: Final = frozenset({ExitCode.BUG, ExitCode.PEER_LOST, ExitCode.KILLED, SIGTERM_EXIT_CODE})
"""With these the kubelet's OOMKilled is believed; it also stands where only a child of the container was killed (cgroup v1: exit code 1)."""
_EXIT_CODE_IN_MESSAGE: Final = re.compile(r"failed with exit code (\d+)")
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def failing(child: ChildJob) -> ChildCondition | None:
    """Return the condition by which a batch Job fails; FailureTarget comes at once, Failed when the last pod has ended."""
    return child.condition("FailureTarget") or child.condition("Failed")


def cause_of_pod(pod: PodReport) -> Cause | None:
    """Return why a pod ended, or None when it has not failed."""
    cause = _cause_of_end(pod)
    if cause is not None and cause.reason is Reason.HOST_OUT_OF_MEMORY:
        return replace(cause, charged=False)  # its plan was too small, and the next attempt has another one
    return cause


def _cause_of_end(pod: PodReport) -> Cause | None:
    code = pod.exit_code
    if pod.disrupted and code in _STOPPED_CODES:
        return Cause(
            Reason.DISRUPTED, f"pod {pod.name}: {pod.disrupted}", code, retry=True, charged=False, step=_step(pod)
        )
    if code in (None, ExitCode.OK):
        return None
    if pod.container_reason == _OUT_OF_MEMORY and code in _KILLABLE_CODES:
        said = "exceeded its host memory (OOMKilled)"
        return _told_by_kubelet(pod, Reason.HOST_OUT_OF_MEMORY, said, meaning_of(ExitCode.KILLED))
    if pod.termination is not None and pod.termination.exit_code == code:
        return cause_of_message(pod.termination)
    if code == ExitCode.KILLED and pod.deleted:
        said = "was deleted, and killed at the end of its grace period before it had saved"
        return _told_by_kubelet(pod, Reason.TERMINATED, said, meaning_of(ExitCode.TERMINATED))
    if code == ExitCode.KILLED:
        return _told_by_kubelet(pod, Reason.RANK_KILLED, "was killed, and not for memory", meaning_of(ExitCode.KILLED))
    if code == SIGTERM_EXIT_CODE:
        return _told_by_kubelet(
            pod, Reason.TERMINATED, "was stopped from outside before it could save", meaning_of(ExitCode.TERMINATED)
        )
    meaning = meaning_of(code)
    return _told_by_kubelet(pod, meaning.reason, f"ended without a word: {meaning.meaning}", meaning)


def first_cause(pods: Iterable[PodReport]) -> Cause | None:
    """Return the first cause in time among pods; a symptom only when there is nothing else."""
    ended = [(pod, cause) for pod in pods if (cause := cause_of_pod(pod)) is not None]
    return min(ended, key=lambda pair: _order(*pair))[1] if ended else None


def latest_cause(pods: Iterable[PodReport]) -> Cause | None:
    """Return why the newest failed pod failed: of repeated tries the last one tells how things are now."""
    ended = [(pod, cause) for pod in pods if (cause := cause_of_pod(pod)) is not None]
    return max(ended, key=lambda pair: (pair[0].created, pair[0].name))[1] if ended else None


def cause_of_attempt(child: ChildJob, pods: tuple[PodReport, ...], now: datetime) -> Cause | None:
    """Return the first cause of a failing attempt, or None while another pod may still name it."""
    condition = failing(child)
    if condition is None:
        return None
    since = condition.last_transition_time
    speak = any(f"/{pod.name} " in condition.message for pod in pods if cause_of_pod(pod) is not None)
    cause = _the_cause(first_cause(pods), None if speak else _cause_in_condition(condition))
    # Failed comes when the last pod has ended: whatever has a word has said it by then.
    all_have_ended = cause is not None and child.has_condition("Failed")
    patience_is_over = since is None or all_have_ended or seconds_since(since, now) >= PATIENCE_SECONDS
    if child.suspended and (cause is None or cause.reason in _STOPPED):
        # Stopped pods of a suspension, seen by the Job controller before they were gone; nobody has failed.
        return Cause(
            Reason.TERMINATED, "stopped by the suspension", ExitCode.TERMINATED.value, retry=True, charged=False
        )
    if cause is not None and cause.reason not in _SYMPTOMS:
        return cause
    if not patience_is_over:
        return None
    return cause or Cause(
        Reason.TRAINER_ERROR,
        f"the pods are gone and left no word; Kubernetes says: {condition.message or condition.reason or 'nothing'}",
        None,
        retry=True,
        charged=True,
    )


def seconds_until_cause(child: ChildJob, now: datetime) -> float:
    """Return when an attempt without a known cause must be looked at again."""
    condition = failing(child)
    if condition is None or condition.last_transition_time is None:
        return PATIENCE_SECONDS
    return max(1.0, PATIENCE_SECONDS - seconds_since(condition.last_transition_time, now))


def _the_cause(of_pods: Cause | None, of_condition: Cause | None) -> Cause | None:
    """Return the cause: what pods tell, unless that is a symptom and the Job has seen more, of a pod that is gone."""
    if of_pods is None or of_condition is None or of_pods.reason not in _SYMPTOMS:
        return of_pods or of_condition
    stopped = of_condition.reason is Reason.TERMINATED and of_pods.reason is Reason.PEER_LOST
    return of_condition if stopped or of_condition.reason not in _SYMPTOMS else of_pods


def _order(pod: PodReport, cause: Cause) -> tuple[bool, datetime, bool, int, str]:
    # The kubelet's times are whole seconds: in one second a lost peer was first, since the Job controller stops pods only after a failure.
    stopped = cause.reason is Reason.TERMINATED
    return cause.reason in _SYMPTOMS, pod.finished or _LAST, stopped, pod.index or 0, pod.name


def _told_by_kubelet(pod: PodReport, reason: Reason, said: str, meaning: ExitMeaning) -> Cause:
    code = "" if pod.exit_code is None else f" (exit code {pod.exit_code})"
    return Cause(
        reason,
        f"pod {pod.name} {said}{code}.",
        pod.exit_code,
        retry=meaning.retry,
        charged=meaning.charged,
        step=_step(pod),
        log_uri=pod.termination.log_uri if pod.termination else None,
    )


def _step(pod: PodReport) -> int | None:
    return pod.termination.step if pod.termination else None


def _cause_in_condition(condition: ChildCondition) -> Cause | None:
    if "has condition DisruptionTarget" in condition.message:
        return Cause(Reason.DISRUPTED, f"{condition.message}.", None, retry=True, charged=False)
    if condition.reason == _COUNTED:
        said = "a pod was stopped or deleted from outside, and is gone"
        return Cause(
            Reason.TERMINATED, f"{said}: {condition.message}.", ExitCode.TERMINATED.value, retry=True, charged=False
        )
    found = _EXIT_CODE_IN_MESSAGE.search(condition.message)
    if found is None:
        return None
    code = int(found.group(1))
    if code in (ExitCode.KILLED, SIGTERM_EXIT_CODE):
        # A failed pod stays until its Job goes: this one had been deleted before its end.
        said = f"a pod was deleted, and killed at the end of its grace period before it had saved: {condition.message}."
        return Cause(Reason.TERMINATED, said, code, retry=True, charged=False)
    meaning = meaning_of(code)
    return Cause(meaning.reason, f"{condition.message}.", code, retry=meaning.retry, charged=meaning.charged)
