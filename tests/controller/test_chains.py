"""A job that names another by ftj:// waits for its result and starts from it, whatever happens to the other one then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.constants import REQUEST_ANNOTATION
from finetune_operator.api.inspection import Lineage
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.controller.kube import FINETUNE_JOBS, JOBS
from finetune_operator.testing import finetune_job
from finetune_operator.testing.operated_cluster import SPEC, OperatedCluster, operating, operator_settings

RESULT = "s3://models/base"


def source(state: JobState = JobState.RUNNING, **spec: Any) -> dict[str, Any]:
    """The job that is named, as far as it has come."""
    ends = {JobState.COMPLETE: "Complete", JobState.FAILED: "Failed"}
    at = "2026-01-01T00:00:00Z"
    condition = {"status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": at}
    status: dict[str, Any] = {"state": str(state), "message": "failed: the loss of step 3 is not finite"}
    if state in ends:
        status["conditions"] = [{"type": ends[state], **condition}]
    if state is JobState.COMPLETE:
        status["result"] = {"uri": RESULT}
    # Suspended, so that the operator makes nothing of it where it has no status of its own.
    return finetune_job("base", spec={**SPEC, "run": {"suspend": True}, **spec}, status=status)


def rewarded(*uris: str) -> dict[str, Any]:
    """The parts of a spec that learns from these reward models."""
    rewards = [{"model": {"uri": uri}} for uri in uris]
    policy = {"rewards": rewards, "maxCompletionLength": 32}
    return {"objective": "rloo", "training": {**SPEC["training"], "globalBatchSize": 8, "rloo": policy}}


def taught(uri: str) -> dict[str, Any]:
    """The parts of a spec that learns from this teacher."""
    return {"objective": "distill", "training": {**SPEC["training"], "distill": {"teacher": {"uri": uri}}}}


def said(cluster: OperatedCluster, kind: ConditionType = ConditionType.INSPECTED) -> tuple[str, Reason]:
    condition = cluster.job().status.condition(kind)
    assert condition is not None
    return condition.status, condition.reason


def inspected_model(cluster: OperatedCluster) -> str:
    """The model that the inspect pod is told to look at."""
    return str(inspected_spec(cluster)["model"]["uri"])


def inspected_spec(cluster: OperatedCluster) -> dict[str, Any]:
    """The spec that the inspect pod is told to look at."""
    job = cluster.api.find(JOBS, "team", "tune-inspect")
    assert job is not None, cluster.job().status.message
    request = json.loads(job["spec"]["template"]["metadata"]["annotations"][REQUEST_ANNOTATION])
    return dict(request["spec"])


def put(cluster: OperatedCluster, body: dict[str, Any]) -> None:
    stored = cluster.api.seed({key: value for key, value in body.items() if key != "status"})
    cluster.api.seed_status(FINETUNE_JOBS, "team", stored["metadata"]["name"], body["status"])


async def test_a_job_waits_for_the_one_it_names_and_starts_from_its_result_at_once(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        cluster.submit(model={"uri": "ftj://base"})
        await cluster.clock.advance(1)
        assert said(cluster) == ("False", Reason.SOURCE_NOT_FOUND)
        assert said(cluster, ConditionType.STALLED)[0] == "True"
        assert "no FineTuneJob base in namespace team" in str(cluster.job().status.message)

        put(cluster, source(JobState.RUNNING))
        await cluster.clock.advance(1)
        assert said(cluster) == ("Unknown", Reason.WAITING_FOR_JOB)
        assert said(cluster, ConditionType.STALLED)[0] == "False"
        assert "tune-inspect" not in cluster.api.names(JOBS)

        put(cluster, source(JobState.COMPLETE))
        await cluster.clock.advance(1)
        assert inspected_model(cluster) == RESULT
        assert cluster.job().spec.model.uri == "ftj://base"
        found = cluster.job().status.source
        assert found is not None
        assert (found.job, found.uri) == ("base", RESULT)


async def test_what_has_begun_goes_on_when_the_first_job_is_deleted(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        put(cluster, source(JobState.COMPLETE))
        cluster.submit(model={"uri": "ftj://base"})
        await cluster.clock.advance(1)
        await cluster.api.delete(FINETUNE_JOBS, "team", "base")
        await cluster.clock.advance(1)
        made = Lineage(
            uri=RESULT, job="team/base", uid="u", step=20, objective="sft", method="lora", base="hf://org/tiny"
        )
        await cluster.inspected(RESULT, lineage=made)
        await cluster.running("tune-1")
        put(cluster, source(JobState.RUNNING))  # another job of that name changes nothing
        await cluster.clock.advance(70)
        assert cluster.state() in ("Starting", "Running")
        await cluster.ended("tune-1", 0)
        await cluster.ended("tune-publish", 0, component="publish", attempt=1, result="s3://models/tune")
        assert cluster.state() == "Complete"
        found = cluster.job().status.source
        assert found is not None
        assert found.uri == RESULT
        inspection = cluster.job().status.inspection
        assert inspection is not None
        assert inspection.lineage is not None
        assert (inspection.lineage.job, inspection.lineage.base) == ("team/base", "hf://org/tiny")


async def test_a_job_that_has_failed_has_no_result_and_its_successor_of_that_name_has(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        put(cluster, source(JobState.FAILED))
        cluster.submit(model={"uri": "ftj://base"})
        await cluster.clock.advance(1)
        assert said(cluster) == ("False", Reason.SOURCE_FAILED)
        assert "the loss of step 3 is not finite" in str(cluster.job().status.message)

        await cluster.api.delete(FINETUNE_JOBS, "team", "base")
        put(cluster, source(JobState.COMPLETE))
        await cluster.clock.advance(1)
        assert inspected_model(cluster) == RESULT


@pytest.mark.parametrize("named", [rewarded("ftj://base"), taught("ftj://base")], ids=["reward", "teacher"])
async def test_a_job_waits_for_its_reward_model_or_teacher(named: dict[str, Any], tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        put(cluster, source(JobState.RUNNING))
        cluster.submit(**named)
        await cluster.clock.advance(1)
        assert said(cluster) == ("Unknown", Reason.WAITING_FOR_JOB)
        assert "tune-inspect" not in cluster.api.names(JOBS)

        cluster.api.seed_status(FINETUNE_JOBS, "team", "base", source(JobState.COMPLETE)["status"])
        await cluster.clock.advance(1)
        assert RESULT in json.dumps(inspected_spec(cluster)["training"])
        status = cluster.job().status
        assert status.source is None
        assert [(found.job, found.uri) for found in status.sources] == [("base", RESULT)]

        await cluster.api.delete(FINETUNE_JOBS, "team", "base")  # what was found stays
        await cluster.clock.advance(70)
        assert [found.uri for found in cluster.job().status.sources] == [RESULT]


async def test_of_several_jobs_that_are_waited_for_the_missing_one_is_told_first(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        put(cluster, source(JobState.RUNNING))
        cluster.submit(model={"uri": "ftj://base"}, **rewarded("s3://models/judge", "ftj://critic"))
        await cluster.clock.advance(1)
        assert said(cluster) == ("False", Reason.SOURCE_NOT_FOUND)
        message = str(cluster.job().status.message)
        assert message.startswith("rewards.model.uri: ftj://critic: there is no FineTuneJob critic")

        critic = source(JobState.COMPLETE)
        critic["metadata"]["name"] = "critic"
        put(cluster, critic)
        await cluster.clock.advance(1)
        assert said(cluster) == ("Unknown", Reason.WAITING_FOR_JOB)
        assert "waiting for the result of job base" in str(cluster.job().status.message)


async def test_a_circle_through_a_reward_model_is_told(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        cluster.api.seed(finetune_job("critic", spec={**SPEC, "model": {"uri": "ftj://tune"}}))
        cluster.api.seed(finetune_job("base", spec={**SPEC, **rewarded("ftj://elsewhere", "ftj://critic")}))
        cluster.submit(model={"uri": "ftj://base"})
        await cluster.clock.advance(1)
        assert said(cluster, ConditionType.ACCEPTED) == ("False", Reason.INVALID_SPEC)
        assert "tune → base → critic → tune" in str(cluster.job().status.message)


@pytest.mark.parametrize(("other", "way"), [("tune", "tune → tune"), ("base", "tune → base → tune")])
async def test_jobs_that_wait_for_one_another_are_told_so(other: str, way: str, tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        if other == "base":
            cluster.api.seed(finetune_job("base", spec={**SPEC, "model": {"uri": "ftj://tune"}}))
        cluster.submit(model={"uri": f"ftj://{other}"})
        await cluster.clock.advance(1)
        assert said(cluster, ConditionType.ACCEPTED) == ("False", Reason.INVALID_SPEC)
        assert way in str(cluster.job().status.message)
        assert cluster.api.names(JOBS) == []


async def test_a_waiting_job_writes_nothing_while_the_other_one_only_makes_steps(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        put(cluster, source(JobState.RUNNING))
        cluster.submit(model={"uri": "ftj://base"})
        await cluster.clock.advance(2)
        cluster.api.forget_calls()
        for step in range(3):
            cluster.api.seed_status(FINETUNE_JOBS, "team", "base", {**source()["status"], "progress": {"step": step}})
            await cluster.clock.advance(30)
        assert [call for call in cluster.api.writes() if call.kind == "FineTuneJob" and call.name == "tune"] == []
