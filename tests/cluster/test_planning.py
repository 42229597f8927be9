"""Plans on a real API server: bounded by quotas, made again after an out-of-memory, corrected by history, and of models that no table knows."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testbed.control_plane import ControlPlane
from testbed.gpu_jobs import inspect, manifest, quota, report
from testbed.operator_process import OperatorProcess, pod_token, wait_for_pod

from finetune_operator.api.constants import progress_path
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.controller.limits import LIMITS_AGE_SECONDS
from finetune_operator.planner.replan import MOST_REPLANS

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
    return f"planned-{next(NUMBERS)}"


def state(wanted: str) -> Any:
    return lambda job: job.get("status", {}).get("state") == wanted


def planned(job: dict[str, Any]) -> tuple[str, str]:
    """Status and reason of condition Planned."""
    conditions = job.get("status", {}).get("conditions", ())
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "Planned"), ("", ""))


def test_a_job_beyond_its_quota_is_told_the_numbers_and_starts_when_the_quota_has_grown(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    cluster.apply(*quota("8Gi"))
    time.sleep(LIMITS_AGE_SECONDS)  # what earlier tests' jobs were planned with
    job = manifest(name, scheduling={"priorityClass": "bounded"})
    cluster.apply(job)
    inspect(cluster, operator, job)

    waiting = cluster.wait_for(
        "ftj", name, lambda job: "ResourceQuota" in str(job.get("status", {}).get("message")), patience=120
    )

    assert "ResourceQuota bounded allows 8 GiB memory and it takes" in waiting["status"]["message"]
    assert planned(waiting) == ("False", "QuotaExceeded")
    cluster.apply(*quota("2Ti"))
    cluster.wait_for("ftj", name, state("Complete"), patience=150)


def test_a_gpu_without_memory_is_planned_around_as_long_as_a_smaller_plan_is_left(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    job = manifest(name, seconds=1, exit_code=ExitCode.GPU_OUT_OF_MEMORY)
    cluster.apply(job)
    inspect(cluster, operator, job)

    failed = cluster.wait_for("ftj", name, state("Failed"), patience=120)["status"]

    assert {attempt["reason"] for attempt in failed["attempts"]} == {"GPUOutOfMemory"}
    assert 2 <= len(failed["attempts"]) <= MOST_REPLANS + 1
    assert not any(attempt["charged"] for attempt in failed["attempts"])
    assert "resources.maxGPUs" in failed["message"]
    plans = [json.loads((cluster.get("configmap", f"{name}-{n}") or {})["data"]["plan.json"])["plan"] for n in (1, 2)]
    assert plans[0]["memory"]["upperBytes"] > plans[1]["memory"]["upperBytes"]
    assert plans[0]["globalBatchSize"] == plans[1]["globalBatchSize"]
    assert plans[1]["reasons"][0].startswith("replan 1 of 3: the plan before ran out of GPU memory")


def test_a_finished_job_is_learned_in_the_history(cluster: ControlPlane, operator: OperatorProcess, name: str) -> None:
    job = manifest(name, seconds=10)
    cluster.apply(job)
    inspect(cluster, operator, job)
    pod = wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=train")
    plan = json.loads((cluster.get("configmap", f"{name}-1") or {})["data"]["plan.json"])["plan"]
    speed = plan["prediction"]["tokensPerSecond"] / 2
    values = {"attempt": "1", "step": "300", "tokens_per_second": str(speed)}
    body = {"trainerStatus": {"metrics": [{"name": key, "value": value} for key, value in values.items()]}}
    operator.post(progress_path("default", name, "progress"), body, pod_token(cluster, pod["metadata"]["name"]))
    cluster.wait_for("ftj", name, state("Complete"), patience=120)

    kept = cluster.wait_for("configmap", "finetune-operator-history", lambda body: bool(body.get("data")), patience=120)

    ratios = [
        run["throughputRatio"] for entry in json.loads(kept["data"]["history.json"])["records"] for run in entry["runs"]
    ]
    assert ratios == [pytest.approx(0.5)]


def test_a_model_that_no_table_knows_is_inspected_again_in_the_trainer_image(
    cluster: ControlPlane, operator: OperatorProcess, name: str
) -> None:
    job = manifest(name)
    cluster.apply(job)
    wait_for_pod(cluster, f"finetune-operator.dev/job={name},finetune-operator.dev/component=inspect")
    first = cluster.get("job", f"{name}-inspect") or {}
    told = report(job)
    told["model"] |= {"architecture": "OPTForCausalLM", "config": {"model_type": "opt", "hidden_size": 64}}

    tell(cluster, operator, first, told)
    second = cluster.wait_for("job", f"{name}-inspect", asks_for_a_trace, patience=120)
    assert image_of(second) != image_of(first)
    told["model"] |= {"traceError": "its forward pass branches on data"}
    tell(cluster, operator, second, told)

    refused = cluster.wait_for("ftj", name, lambda job: planned(job) == ("False", "UnknownArchitecture"), patience=120)
    assert "its forward pass branches on data" in refused["status"]["message"]


def tell(cluster: ControlPlane, operator: OperatorProcess, inspection: dict[str, Any], body: dict[str, Any]) -> None:
    """Be that Job's pod: report with its token."""
    pod = wait_for_pod(cluster, f"batch.kubernetes.io/controller-uid={inspection['metadata']['uid']}")
    job = inspection["metadata"]["labels"]["finetune-operator.dev/job"]
    path = progress_path("default", job, "inspection")
    status, text = operator.post(path, body, pod_token(cluster, pod["metadata"]["name"]))
    assert status in (200, 201, 204), text


def asks_for_a_trace(job: dict[str, Any]) -> bool:
    return "--trace" in job["spec"]["template"]["spec"]["containers"][0]["args"]


def image_of(job: dict[str, Any]) -> str:
    return str(job["spec"]["template"]["spec"]["containers"][0]["image"])
