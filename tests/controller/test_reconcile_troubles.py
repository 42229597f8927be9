"""Reconciling when the server says no, an object is broken, or any request fails."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.constants import JOB_LABEL, PLAN_FILE
from finetune_operator.controller.kube import (
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    SERVICES,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    TooManyRequests,
    Unavailable,
)
from finetune_operator.controller.reconcile import REFUSED_SECONDS, Outcome
from finetune_operator.controller.status_body import comparable
from finetune_operator.controller.worker import work
from finetune_operator.testing import (
    config_map,
    owned_by,
    timed_out,
)
from finetune_operator.testing.reconciling import Harness


@pytest.mark.parametrize(
    "error", [Forbidden(403, "Forbidden", "exceeded quota: gpus"), Invalid(422, "Invalid", "webhook denied")]
)
async def test_what_the_server_refuses_is_said_in_the_status_and_tried_again_slowly(error: ApiError) -> None:
    harness = Harness()
    harness.submit()
    harness.api.fail("apply", error, kind="Job")
    assert await harness.reconcile() == Outcome("refused", REFUSED_SECONDS)
    assert harness.condition("Stalled")["reason"] == "ClusterRefused"
    assert error.message in harness.status()["message"]
    notes = [harness.api.find(EVENTS, "team", name) for name in harness.api.names(EVENTS)]
    assert any(note and note["reason"] == "ClusterRefused" for note in notes)
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]
    assert "ClusterRefused" not in str(harness.status())


async def test_a_right_that_the_operator_lacks_is_said_in_the_status() -> None:
    harness = Harness()
    harness.submit()
    harness.api.fail("list", Forbidden(403, "Forbidden", "cannot list resource configmaps"), kind="ConfigMap")
    assert await harness.reconcile() == Outcome("refused", REFUSED_SECONDS)
    assert "cannot list resource configmaps" in harness.condition("Stalled")["message"]
    await harness.reconcile()
    assert harness.api.names(JOBS) == ["tune-1"]


async def test_a_config_map_of_ours_that_somebody_broke_is_named_without_its_content() -> None:
    harness = Harness()
    owner = harness.submit()
    broken = config_map("tune-1", {PLAN_FILE: '{"version": "my secret"}'}, labels={JOB_LABEL: "tune"})
    harness.api.seed(owned_by(owner, broken))
    assert (await harness.reconcile()).result == "refused"
    message = harness.condition("Stalled")["message"]
    assert "ConfigMap team/tune-1, plan.json: unreadable at" in message
    assert "secret" not in message


async def test_a_spec_that_cannot_be_read_is_a_condition_that_names_the_field() -> None:
    harness = Harness()
    harness.submit(spec={"training": {"epochs": -1}})
    assert (await harness.reconcile()).result == "invalid"
    assert harness.condition("Accepted")["reason"] == "InvalidSpec"
    assert "training.epochs" in harness.status()["message"]
    harness.api.forget_calls()
    await harness.reconcile()
    assert harness.api.writes() == []


_ERRORS = st.sampled_from(
    [
        Conflict(409, "Conflict", "changed"),
        TooManyRequests(429, "TooManyRequests", "slow down", 2.0),
        Unavailable(500, "InternalError", "etcd"),
        Forbidden(403, "Forbidden", "quota"),
        Invalid(422, "Invalid", "webhook"),
        timed_out(),
    ]
)
_FAULTS = st.lists(
    st.tuples(st.sampled_from(["apply", "get", "list"]), _ERRORS, st.integers(0, 4), st.booleans()), max_size=6
)


@settings(deadline=None, max_examples=60)
@given(_FAULTS)
def test_whatever_fails_in_between_the_end_is_the_same_and_then_nothing_is_written(
    faults: list[tuple[str, ApiError, int, bool]],
) -> None:
    asyncio.run(converge(faults))


async def converge(faults: list[tuple[str, ApiError, int, bool]]) -> None:
    undisturbed, disturbed = Harness(), Harness()
    for verb, error, skip, carried_out in faults:
        disturbed.api.fail(verb, error, skip=skip, carried_out=carried_out)
    for harness in (undisturbed, disturbed):
        harness.submit()
        worker = asyncio.create_task(
            work(harness.queue, harness.reconciler, harness.clock, lambda result, seconds: None)
        )
        await harness.clock.advance(600)  # a refusal waits 60 s, a backoff less
        harness.api.forget_calls()
        await harness.clock.advance(120)
        assert harness.api.writes() == []
        harness.queue.close()
        await worker
    for resource in (JOBS, SERVICES, CONFIG_MAPS):
        one, other = (harness.api.find(resource, "team", "tune-1") for harness in (undisturbed, disturbed))
        assert one is not None
        assert other is not None
        assert (one.get("spec"), one.get("data")) == (other.get("spec"), other.get("data"))
    assert comparable(undisturbed.status()) == comparable(disturbed.status())
