"""The operator's process on a real API server, with GPU nodes that exist in the API only (KWOK runs and ends their pods)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from testbed.control_plane import ControlPlane
from testbed.gpu_jobs import inspect, manifest, report
from testbed.operator_process import OperatorProcess, pod_token, wait_for_pod
from testbed.processes import until

from finetune_operator.api.constants import progress_path

SECRET_ANSWER = "the-answer-that-must-never-be-shown"
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(gpu_control_plane: ControlPlane) -> ControlPlane:
    return gpu_control_plane


@pytest.fixture(scope="module")
def operator(cluster: ControlPlane) -> Iterator[OperatorProcess]:
    process = OperatorProcess(cluster)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def name() -> str:
    return f"job-{next(NUMBERS)}"


def state(wanted: str) -> Any:
    return lambda job: job.get("status", {}).get("state") == wanted


@pytest.fixture(scope="module")
def done(cluster: ControlPlane, operator: OperatorProcess) -> dict[str, Any]:
    """An undisturbed job at its end."""
    job = manifest("undisturbed", seconds=6)
    cluster.apply(job)
    inspect(cluster, operator, job)
    return cluster.wait_for("ftj", "undisturbed", state("Complete"), patience=120)


def test_a_job_goes_its_way_on_gpus(done: dict[str, Any]) -> None:
    plan = done["status"]["plan"]
    assert plan["gpus"] >= 1
    assert plan["gpuProduct"] == "NVIDIA-H100-80GB-HBM3"
    assert float(plan["expectedGiB"]) <= float(plan["upperGiB"])
    assert done["status"]["result"]["uri"] == "s3://models/undisturbed"
    assert [attempt["result"] for attempt in done["status"]["attempts"]] == ["Succeeded"]


def test_an_equal_inspection_is_reused(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    first = manifest(name)
    cluster.apply(first)
    inspect(cluster, operator, first)
    second = manifest(f"{name}-again")
    second["spec"]["dataset"], second["spec"]["output"] = first["spec"]["dataset"], first["spec"]["output"]
    cluster.wait_for("ftj", name, state("Complete"), patience=120)
    cluster.apply(second)

    cluster.wait_for("ftj", f"{name}-again", state("Complete"), patience=120)

    assert cluster.get("job", f"{name}-again-inspect") is None


def test_the_plan_is_shown_before_a_gpu_is_taken(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    job = manifest(name, run={"suspend": True})
    cluster.apply(job)
    inspect(cluster, operator, job)

    shown = cluster.wait_for("ftj", name, lambda job: job.get("status", {}).get("plan"), patience=120)

    assert shown["status"]["plan"]["totalSteps"] == 300
    assert (
        cluster.list("pods", "default", f"finetune-operator.dev/job={name},finetune-operator.dev/component=train") == []
    )
    cluster.kubectl("patch", "ftj", name, "--type=merge", "-p", '{"spec":{"run":{"suspend":false}}}')
    cluster.wait_for("ftj", name, state("Complete"), patience=120)


def test_failures_are_tried_again_and_then_given_up(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    job = manifest(name, seconds=1, exit_code=1, run={"retries": 1})
    # A fake inspect pod shares the annotations: it fails too, and its Job starts another until one reports.
    cluster.apply(job)
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=inspect")
    token = pod_token(cluster, pod["metadata"]["name"])
    operator.post(progress_path("default", name, "inspection"), report(job), token)

    failed = cluster.wait_for("ftj", name, state("Failed"), patience=120)

    assert [attempt["number"] for attempt in failed["status"]["attempts"]] == [1, 2]
    condition = next(c for c in failed["status"]["conditions"] if c["type"] == "Failed")
    assert (condition["status"], condition["reason"]) == ("True", "RetriesExhausted")


def test_an_unmodified_trainer_reports_progress(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    job = manifest(name, seconds=25)
    cluster.apply(job)
    inspect(cluster, operator, job)
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=train")
    token = pod_token(cluster, pod["metadata"]["name"])
    metrics = [
        {"name": "step", "value": "120"},
        {"name": "total_steps", "value": "300"},
        {"name": "loss", "value": "1.25"},
    ]
    body = {"trainerStatus": {"progressPercentage": 40, "estimatedRemainingSeconds": 725, "metrics": metrics}}

    status, text = operator.post(progress_path("default", name, "progress"), body, token)

    assert status in (200, 204), text
    running = cluster.wait_for("ftj", name, state("Running"), patience=120)
    assert running["status"]["progress"]["steps"] == "120/300"
    line = cluster.kubectl("get", "ftj", name).splitlines()[1].split()
    assert line[1:7] == ["Running", "lora", str(running["status"]["plan"]["gpus"]), "120/300", "1.25", "12m"]


@pytest.mark.parametrize(
    ("whose", "audience", "answer"), [("other", "finetune-operator.dev", 403), ("own", "elsewhere", 401)]
)
def test_a_token_counts_for_its_own_job_and_audience_alone(
    cluster: ControlPlane, operator: OperatorProcess, name: str, whose: str, audience: str, answer: int
) -> None:
    for job_name in (name, f"{name}-other"):
        cluster.apply(manifest(job_name, seconds=60))
    target = name if whose == "own" else f"{name}-other"
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=inspect")
    token = pod_token(cluster, pod["metadata"]["name"], audience=audience)

    status, _ = operator.post(progress_path("default", target, "inspection"), report(manifest(target)), token)

    assert status == answer


def test_a_killed_operator_loses_and_doubles_nothing(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    job = manifest(name, seconds=12)
    cluster.apply(job)
    inspect(cluster, operator, job)
    wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=train")
    before = cluster.get("job", f"{name}-1")

    operator.kill()
    operator.start()
    cluster.wait_for("ftj", name, state("Complete"), patience=120)

    after = cluster.get("job", f"{name}-1")
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] == after["metadata"]["uid"]
    jobs = {child["metadata"]["name"] for child in cluster.list("jobs", "default", f"finetune-operator.dev/job={name}")}
    assert jobs <= {f"{name}-inspect", f"{name}-1", f"{name}-publish"}


def test_finished_jobs_are_written_no_more(cluster: ControlPlane, done: dict[str, Any]) -> None:
    """By what the API server remembers of writes: jobs of the tests before have had the time of all later ones for another."""
    found = json.loads(cluster.kubectl("get", "ftj", "--output=json", "--show-managed-fields"))["items"]
    complete = [job for job in found if state("Complete")(job)]
    written = {
        job["metadata"]["name"]: (
            datetime.fromisoformat(max(entry["time"] for entry in job["metadata"]["managedFields"])),
            datetime.fromisoformat(job["status"]["completionTime"]),
        )
        for job in complete
    }

    assert done["metadata"]["name"] in written
    assert [name for name, (last, completion) in written.items() if (last - completion).total_seconds() > 2] == []


def test_a_second_replica_takes_over(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    standby = OperatorProcess(cluster, "operator-1")
    standby.start()
    try:
        assert standby.get("/readyz")[0] == 200
        operator.kill()
        job = manifest(name, seconds=30)
        cluster.apply(job)
        inspect(cluster, standby, job)
        wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=train", patience=120)
    finally:
        standby.stop()
        operator.start()


def test_the_probe_and_the_metrics_answer(operator: OperatorProcess) -> None:
    for _ in until(30, pause=0.5):
        if "finetune_operator_leader 1.0" in operator.get("/metrics")[1]:
            break
    status, text = operator.get("/metrics")

    assert status == 200
    assert "finetune_operator_leader 1.0" in text
    assert "finetune_operator_reconcile_total" in text


def test_deleting_a_job_collects_its_children(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    job = manifest(name, seconds=60)
    cluster.apply(job)
    inspect(cluster, operator, job)
    wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=train")

    cluster.kubectl("delete", "ftj", name, "--wait", "--timeout=60s")

    cluster.wait_until_gone(f"finetune-operator.dev/job={name}", "default", "jobs", "configmaps", "services")


def test_nothing_secret_reaches_status_events_logs_or_metrics(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    job = manifest(name, seconds=60)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys", "namespace": "default"},
        "stringData": {"AWS_SECRET_ACCESS_KEY": SECRET_ANSWER},
    }
    job["spec"]["credentials"] = {"storage": {"secret": "keys"}}
    cluster.apply(secret, job)
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=inspect")
    token = pod_token(cluster, pod["metadata"]["name"])
    body = report(job)
    body["rowContent"] = SECRET_ANSWER
    operator.post(progress_path("default", name, "inspection"), body, token)
    operator.post(progress_path("default", name, "progress"), {"trainerStatus": SECRET_ANSWER}, token)
    cluster.wait_for("ftj", name, lambda job: job.get("status", {}).get("plan"), patience=120)

    seen = [
        json.dumps(cluster.get("ftj", name)),
        json.dumps(cluster.list("events", "default")),
        json.dumps(cluster.list("configmaps", "default")),
        operator.log(),
        operator.get("/metrics")[1],
    ]
    for text in seen:
        assert SECRET_ANSWER not in text
        assert token not in text
