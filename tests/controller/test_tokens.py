"""From a bearer token to the pod that holds it: who is let in, who is not and why, and how often the API server is asked."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.kube import Unavailable
from finetune_operator.controller.tokens import Callers, RecentValues, Refused
from finetune_operator.testing import FakeApi, FakeClock, pod, timed_out

Body = dict[str, Any]


def user_of(body: Body, **extra: list[str]) -> Body:
    """Return what a TokenReview says about a pod's token."""
    metadata = body["metadata"]
    return {
        "username": f"system:serviceaccount:{metadata['namespace']}:default",
        "extra": {
            "authentication.kubernetes.io/pod-name": [metadata["name"]],
            "authentication.kubernetes.io/pod-uid": [metadata["uid"]],
            **extra,
        },
    }


def api_with_pod(clock: FakeClock, body: Body | None = None) -> FakeApi:
    api = FakeApi(clock)
    stored = api.seed(body or pod("tune-1-0-abcde"))
    api.tokens["good"] = user_of(stored)
    return api


async def refusal(callers: Callers, authorization: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await callers.caller(authorization)
    return caught.value


async def test_a_pods_token_tells_its_job_component_and_attempt() -> None:
    clock = FakeClock()
    caller = await Callers(api_with_pod(clock), clock).caller("Bearer good")
    assert (caller.namespace, caller.pod, caller.job) == ("team", "tune-1-0-abcde", "tune")
    assert (caller.component, caller.attempt) == ("train", 1)


async def test_a_pod_without_an_attempt_label_has_none() -> None:
    clock = FakeClock()
    api = api_with_pod(clock, pod("tune-inspect-x", attempt=None, component="inspect"))
    assert (await Callers(api, clock).caller("Bearer good")).attempt is None


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic Z29vZA==", "good"])
async def test_without_a_bearer_token_it_is_said_which_one_to_send(header: str) -> None:
    clock = FakeClock()
    refused = await refusal(Callers(api_with_pod(clock), clock), header)
    assert refused.status == 401
    assert "token of audience finetune-operator.dev" in str(refused)


async def test_a_token_that_the_api_server_does_not_accept_is_401() -> None:
    clock = FakeClock()
    assert (await refusal(Callers(api_with_pod(clock), clock), "Bearer forged")).status == 401


async def test_a_huge_token_is_refused_without_asking() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    assert (await refusal(Callers(api, clock), "Bearer " + "x" * 20_000)).status == 401
    assert api.calls == []


class ForgetfulApi(FakeApi):
    """Answers reviews as an API server that does not know audiences does."""

    async def create(self, body: Body) -> Body:
        answer = await super().create(body)
        answer["status"].pop("audiences", None)
        return answer


async def test_an_answer_that_does_not_confirm_our_audience_is_401() -> None:
    clock = FakeClock()
    api = ForgetfulApi(clock)
    api.tokens["good"] = user_of(api.seed(pod("p")))
    assert (await refusal(Callers(api, clock), "Bearer good")).status == 401


async def test_a_token_of_a_person_is_403() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    api.tokens["good"]["username"] = "kubernetes-admin"
    assert (await refusal(Callers(api, clock), "Bearer good")).status == 403


async def test_a_token_that_is_not_bound_to_a_pod_is_403() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    del api.tokens["good"]["extra"]
    refused = await refusal(Callers(api, clock), "Bearer good")
    assert refused.status == 403
    assert "not bound to a pod" in str(refused)


async def test_a_pod_of_no_job_is_403() -> None:
    clock = FakeClock()
    stranger = pod("stranger")
    stranger["metadata"]["labels"] = {"app": "web"}
    refused = await refusal(Callers(api_with_pod(clock, stranger), clock), "Bearer good")
    assert refused.status == 403
    assert "belongs to no FineTuneJob" in str(refused)


async def test_a_pod_that_was_made_again_under_the_same_name_is_403() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    api.tokens["good"]["extra"]["authentication.kubernetes.io/pod-uid"] = ["another"]
    assert (await refusal(Callers(api, clock), "Bearer good")).status == 403


async def test_a_pod_that_is_gone_is_403() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    api.tokens["good"]["extra"]["authentication.kubernetes.io/pod-name"] = ["gone"]
    assert (await refusal(Callers(api, clock), "Bearer good")).status == 403


async def test_the_api_server_is_asked_once_a_minute_for_a_token_and_its_pod() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    callers = Callers(api, clock)
    for _ in range(5):
        await callers.caller("Bearer good")
    assert [call.verb for call in api.calls] == ["create", "get"]
    await clock.advance(60)
    await callers.caller("Bearer good")
    assert len(api.calls) == 4


async def test_a_revoked_token_is_refused_within_a_minute() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    callers = Callers(api, clock)
    await callers.caller("Bearer good")
    api.tokens.clear()
    await clock.advance(60)
    assert (await refusal(callers, "Bearer good")).status == 401


async def test_a_refused_token_is_asked_about_again_after_five_seconds() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    callers = Callers(api, clock)
    await refusal(callers, "Bearer late")
    await refusal(callers, "Bearer late")
    assert len(api.calls) == 1
    api.tokens["late"] = api.tokens["good"]
    await clock.advance(5)
    assert (await callers.caller("Bearer late")).job == "tune"


async def test_a_failed_review_is_the_api_servers_error_and_not_kept() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    callers = Callers(api, clock)
    api.fail("create", timed_out())
    with pytest.raises(Unavailable):
        await callers.caller("Bearer good")
    assert (await callers.caller("Bearer good")).job == "tune"


async def test_invented_tokens_do_not_become_as_many_reviews() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    callers = Callers(api, clock)
    statuses = [(await refusal(callers, f"Bearer invented-{number}")).status for number in range(300)]
    assert statuses == [401] * 200 + [429] * 100
    assert len(api.calls) == 200


async def test_tokens_themselves_are_not_kept() -> None:
    clock = FakeClock()
    api = api_with_pod(clock)
    api.tokens["a-secret-token"] = api.tokens["good"]
    callers = Callers(api, clock)
    await callers.caller("Bearer a-secret-token")
    assert "a-secret-token" not in repr(vars(callers._holders))


def test_recent_values_forget_the_oldest_when_they_are_full() -> None:
    values: RecentValues[int, str] = RecentValues(FakeClock(), capacity=2)
    for number in range(3):
        values.put(number, str(number), 60)
    assert [values.get(number) for number in range(3)] == [None, "1", "2"]
    assert len(values) == 2
