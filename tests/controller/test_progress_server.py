"""The progress server over HTTP: every answer that a pod can get, and that nothing of a body or token is ever logged."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from finetune_operator.api.constants import FIELD_MANAGER, progress_path
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.job import FineTuneJob
from finetune_operator.controller.kube import CONFIG_MAPS, FINETUNE_JOBS, TOKEN_REVIEWS
from finetune_operator.controller.metrics import OperatorMetrics
from finetune_operator.controller.progress_server import ProgressServer
from finetune_operator.jobs.testing import make_report
from finetune_operator.testing import FakeApi, FakeClock, config_map, finetune_job, pod, timed_out

Body = dict[str, Any]
REPORT: Body = {"trainerStatus": {"progressPercentage": 40, "metrics": [{"name": "loss", "value": "1.5"}]}}


def inspection(**parts: Any) -> Body:
    """Return a report as an inspect pod sends it."""
    report = make_report(FineTuneJob.from_manifest(finetune_job()), rows=3).to_json_dict()
    return {**report, "key": "0123456789abcdef", **parts}


class Cluster:
    """A job, its pods with their tokens, and a replica's progress server."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.metrics = OperatorMetrics()
        self.told: list[tuple[str, str]] = []
        self.job = self.api.seed(finetune_job())
        self.add_pod("trainer", pod("tune-1-0-x"))
        self.add_pod("inspector", pod("tune-inspect-x", attempt=None, component="inspect"))
        self.server = ProgressServer(
            self.api, self.clock, self.metrics, notify=lambda namespace, name: self.told.append((namespace, name))
        )

    def add_pod(self, token: str, body: Body) -> None:
        metadata = self.api.seed(body)["metadata"]
        extra = {
            "authentication.kubernetes.io/pod-name": [metadata["name"]],
            "authentication.kubernetes.io/pod-uid": [metadata["uid"]],
        }
        self.api.tokens[token] = {"username": f"system:serviceaccount:{metadata['namespace']}:sa", "extra": extra}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Callable[..., Any]]:
        async with TestClient(TestServer(self.server.app)) as client:

            async def post(
                what: str, body: Any, token: str = "trainer", *, namespace: str = "team", name: str = "tune"
            ) -> ClientResponse:
                data = body if isinstance(body, str | bytes) else json.dumps(body)
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return await client.post(progress_path(namespace, name, what), data=data, headers=headers)

            yield post

    async def post(self, what: str, body: Any, token: str = "trainer", **where: str) -> tuple[int, Body]:
        async with self.serving() as post:
            response = await post(what, body, token, **where)
            return response.status, await response.json()


async def test_a_trainers_report_is_shown_in_the_jobs_status() -> None:
    cluster = Cluster()
    assert await cluster.post("progress", REPORT) == (200, {"result": "written"})
    job = cluster.api.find(FINETUNE_JOBS, "team", "tune")
    assert job is not None
    assert job["status"]["progress"]["attempt"] == 1
    assert job["status"]["progress"]["loss"] == "1.5"


async def test_without_a_token_it_is_401_in_plain_words() -> None:
    async with Cluster().serving() as post:
        response = await post("progress", REPORT, token="")
        answer = await response.json()
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (answer["kind"], answer["code"], answer["reason"]) == ("Status", 401, "Unauthorized")
        assert "Authorization: Bearer" in answer["message"]


async def test_a_token_that_is_not_accepted_is_401() -> None:
    assert (await Cluster().post("progress", REPORT, token="forged"))[0] == 401


async def test_a_pod_of_another_job_is_403_and_told_whose_it_is() -> None:
    cluster = Cluster()
    cluster.add_pod("neighbour", pod("other-1-0-x", job="other"))
    status, answer = await cluster.post("progress", REPORT, token="neighbour")
    assert status == 403
    assert "belongs to job other" in answer["message"]


async def test_a_pod_of_another_namespace_is_403() -> None:
    cluster = Cluster()
    cluster.add_pod("stranger", pod("tune-1-0-x", namespace="elsewhere"))
    assert (await cluster.post("progress", REPORT, token="stranger"))[0] == 403


async def test_a_pod_of_an_earlier_job_of_the_same_name_is_403() -> None:
    cluster = Cluster()
    await cluster.api.delete(FINETUNE_JOBS, "team", "tune")
    await cluster.clock.advance(5)
    cluster.api.seed(finetune_job())
    status, answer = await cluster.post("progress", REPORT)
    assert status == 403
    assert "an earlier job of the name tune" in answer["message"]


async def test_an_inspect_pod_does_not_report_progress_and_a_train_pod_no_inspection() -> None:
    cluster = Cluster()
    assert (await cluster.post("progress", REPORT, token="inspector"))[0] == 403
    assert (await cluster.post("inspection", inspection(), token="trainer"))[0] == 403


async def test_a_job_that_does_not_exist_is_404() -> None:
    cluster = Cluster()
    await cluster.api.delete(FINETUNE_JOBS, "team", "tune")
    assert (await cluster.post("progress", REPORT))[0] == 404


async def test_a_body_that_is_too_large_is_413_and_told_the_limit() -> None:
    cluster = Cluster()
    status, answer = await cluster.post("progress", "x" * (64 * 1024 + 1))
    assert status == 413
    assert "65536 bytes" in answer["message"]
    assert (await cluster.post("inspection", b"x" * (256 * 1024 + 1), token="inspector"))[0] == 413


async def test_an_inspection_of_almost_the_limit_is_taken() -> None:
    cluster = Cluster()
    padded = inspection()
    padded["model"]["config"] = {"padding": "x" * 250_000}
    assert (await cluster.post("inspection", padded, token="inspector"))[0] == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("no json", "body: Invalid JSON"),
        ({}, "trainerStatus: Field required"),
        ({"trainerStatus": {"progressPercentage": 101}}, "trainerStatus.progressPercentage: Input should be less than"),
        ({"trainerStatus": {"metrics": [{"name": "loss", "value": "x" * 101}]}}, "trainerStatus.metrics.0.value"),
    ],
    ids=["no JSON", "empty", "101 %", "long value"],
)
async def test_a_body_that_is_wrong_is_422_and_told_the_field(body: Any, named: str) -> None:
    status, answer = await Cluster().post("progress", body)
    assert status == 422
    assert named in answer["message"]


async def test_a_refusal_never_repeats_what_was_sent() -> None:
    row = "the patient said"
    body = {"trainerStatus": {"progressPercentage": row, "estimatedRemainingSeconds": row, "metrics": row}}
    status, answer = await Cluster().post("progress", body)
    assert status == 422
    assert row not in json.dumps(answer)


async def test_too_many_reports_are_429_with_the_time_to_wait() -> None:
    async with Cluster().serving() as post:
        responses = [await post("progress", REPORT) for _ in range(21)]
        assert [response.status for response in responses] == [200] * 20 + [429]
        assert responses[-1].headers["Retry-After"] == "1"


async def test_one_job_s_flood_does_not_keep_another_from_reporting() -> None:
    cluster = Cluster()
    cluster.api.seed(finetune_job("other"))
    cluster.add_pod("other", pod("other-1-0-x", job="other"))
    async with cluster.serving() as post:
        for _ in range(30):
            await post("progress", REPORT)
        assert (await post("progress", REPORT, "other", name="other")).status == 200


async def test_an_api_server_that_does_not_answer_is_503() -> None:
    cluster = Cluster()
    cluster.api.fail("create", timed_out(), kind=TOKEN_REVIEWS.kind)
    async with cluster.serving() as post:
        response = await post("progress", REPORT)
        assert (response.status, response.headers["Retry-After"]) == (503, "5")


async def test_other_paths_and_methods_are_not_there() -> None:
    async with TestClient(TestServer(Cluster().server.app)) as client:
        assert (await client.get(progress_path("team", "tune", "progress"))).status == 405
        assert (await client.post(progress_path("team", "tune", "status"))).status == 404


async def test_an_inspection_becomes_the_jobs_own_config_map() -> None:
    cluster = Cluster()
    assert await cluster.post("inspection", inspection(), token="inspector") == (200, {"result": "written"})
    stored = cluster.api.find(CONFIG_MAPS, "team", "tune-inspection")
    assert stored is not None
    assert stored["metadata"]["labels"] == {
        "finetune-operator.dev/job": "tune",
        "finetune-operator.dev/component": "inspect",
        "finetune-operator.dev/inspection-key": "0123456789abcdef",
    }
    (owner,) = stored["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneJob", cluster.job["metadata"]["uid"], True)
    assert InspectionReport.model_validate_json(stored["data"]["inspection.json"]).dataset.rows == 3
    assert cluster.api.writes()[-1].manager == FIELD_MANAGER


async def test_the_operator_is_told_of_an_inspection() -> None:
    cluster = Cluster()
    await cluster.post("inspection", inspection(), token="inspector")
    assert cluster.told == [("team", "tune")]


async def test_a_second_inspection_replaces_the_first() -> None:
    cluster = Cluster()
    await cluster.post("inspection", inspection(), token="inspector")
    await cluster.post("inspection", inspection(key="fedcba9876543210"), token="inspector")
    stored = cluster.api.find(CONFIG_MAPS, "team", "tune-inspection")
    assert stored is not None
    assert json.loads(stored["data"]["inspection.json"])["key"] == "fedcba9876543210"


async def test_a_config_map_of_somebody_else_is_never_touched() -> None:
    cluster = Cluster()
    cluster.api.seed(config_map("tune-inspection", {"mine": "yes"}))
    status, answer = await cluster.post("inspection", inspection(), token="inspector")
    assert status == 409
    assert "ConfigMap team/tune-inspection belongs to someone else" in answer["message"]
    stored = cluster.api.find(CONFIG_MAPS, "team", "tune-inspection")
    assert stored is not None
    assert stored["data"] == {"mine": "yes"}
    assert cluster.told == []


async def test_an_inspection_whose_key_is_no_label_is_422() -> None:
    status, answer = await Cluster().post("inspection", inspection(key="no label!"), token="inspector")
    assert status == 422
    assert answer["message"].startswith("key: must be")


async def test_reports_are_counted_by_kind_and_result() -> None:
    cluster = Cluster()
    await cluster.post("progress", REPORT)
    await cluster.post("progress", REPORT, token="forged")
    value = cluster.metrics.registry.get_sample_value
    name = "finetune_operator_progress_reports_total"
    assert value(name, {"kind": "progress", "result": "written"}) == 1
    assert value(name, {"kind": "progress", "result": "refused_401"}) == 1


async def test_neither_bodies_nor_tokens_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cluster = Cluster()
    cluster.add_pod("a-secret-token", pod("tune-1-1-x"))
    row = "the patient said"
    cluster.api.fail("get", timed_out(), kind="FineTuneJob", skip=3)
    for body in (REPORT, {"trainerStatus": {"metrics": [{"name": row, "value": row}]}}, {"trainerStatus": row}, row):
        await cluster.post("progress", body, token="a-secret-token")
        await cluster.post("progress", body, token=f"forged-{row}")
    await cluster.post("inspection", inspection(job=row), token="inspector")
    assert row not in caplog.text
    assert "a-secret-token" not in caplog.text


async def test_a_token_is_reviewed_once_for_many_reports() -> None:
    cluster = Cluster()
    async with cluster.serving() as post:
        for _ in range(10):
            await post("progress", REPORT)
    assert [call.kind for call in cluster.api.calls].count("TokenReview") == 1
