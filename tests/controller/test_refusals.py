"""Why pods are missing, read from Events of the batch Job and from nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.cache import CachedChild, child_of
from finetune_operator.controller.kube import EVENTS, Forbidden
from finetune_operator.controller.pods import pod_reports
from finetune_operator.controller.refusals import PATIENCE_SECONDS, Refusals
from finetune_operator.testing import FakeApi, FakeClock, indexed_job, owned_by, pod


class Namespace:
    """A batch Job of one pod, with what was said to it."""

    def __init__(self, **status: Any) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(clock=self.clock)
        self.job = self.api.seed(indexed_job(status=status))
        self.pods: list[dict[str, Any]] = []

    def say(self, name: str, note: str, seen: str, reason: str = "FailedCreate", uid: str = "") -> None:
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": "team"},
            "regarding": {"kind": "Job", "uid": uid or self.job["metadata"]["uid"]},
            "reason": reason,
            "note": note,
            "deprecatedLastTimestamp": seen,
        }
        self.api.seed(event)

    async def refusals(self, after: float = PATIENCE_SECONDS) -> dict[str, str]:
        await self.clock.advance(after)
        child = child_of(self.job)
        assert isinstance(child, CachedChild)
        reports = pod_reports(self.pods, [child])
        return await Refusals(self.api, self.clock).of_children("team", [child], reports, {})


async def test_the_newest_refusal_is_told() -> None:
    namespace = Namespace()
    namespace.say("b", "exceeded quota: old", "2026-01-01T00:00:00Z")
    namespace.say("a", "exceeded quota: new", "2026-01-01T00:01:00Z")
    assert await namespace.refusals() == {"tune-1": "exceeded quota: new"}


async def test_the_pod_s_name_that_changes_with_each_try_is_left_out() -> None:
    namespace = Namespace()
    namespace.say("a", 'Error creating: pods "tune-1-0-x7" is forbidden: exceeded quota: zero', "2026-01-01T00:00:00Z")
    assert await namespace.refusals() == {"tune-1": "forbidden: exceeded quota: zero"}


async def test_other_events_and_those_of_other_jobs_refuse_nothing() -> None:
    namespace = Namespace()
    namespace.say("a", "created pod", "2026-01-01T00:00:00Z", reason="SuccessfulCreate")
    namespace.say("b", "exceeded quota", "2026-01-01T00:00:00Z", uid="somebody-else")
    assert await namespace.refusals() == {}


async def test_a_job_whose_pods_are_there_costs_no_request() -> None:
    namespace = Namespace()
    namespace.pods = [namespace.api.seed(owned_by(namespace.job, pod("tune-1-0-abc")))]
    namespace.say("a", "exceeded quota, before it was raised", "2026-01-01T00:00:00Z")
    namespace.api.forget_calls()
    assert await namespace.refusals() == {}
    assert namespace.api.calls == []


async def test_a_new_job_costs_no_request() -> None:
    namespace = Namespace()
    namespace.api.forget_calls()
    await namespace.refusals(after=PATIENCE_SECONDS / 2)
    assert namespace.api.calls == []


@pytest.mark.parametrize("kind", ["Complete", "FailureTarget"])
async def test_a_job_that_has_ended_costs_no_request(kind: str) -> None:
    namespace = Namespace(conditions=[{"type": kind, "status": "True"}])
    namespace.api.forget_calls()
    await namespace.refusals()
    assert namespace.api.calls == []


async def test_without_the_right_to_read_events_the_job_goes_on() -> None:
    namespace = Namespace()
    namespace.api.fail("list", Forbidden(403, "Forbidden", "no"), kind=EVENTS.kind)
    assert await namespace.refusals() == {}
