"""Quotas and policies of namespaces: read while something is planned there, and told to the job in numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.controller.kube import NAMESPACES, RESOURCE_QUOTAS, Forbidden
from finetune_operator.controller.limits import LIMITS_AGE_SECONDS, LimitsReader
from finetune_operator.planner.limits import NO_LIMITS
from finetune_operator.testing import FakeApi, FakeClock
from finetune_operator.testing.operated_cluster import OperatedCluster, operating, operator_settings


def quota(hard: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team-quota", "namespace": "team"},
        "spec": {"hard": hard},
    }


def namespace(**annotations: str) -> dict[str, Any]:
    named = {f"finetune-operator.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "annotations": named}}


async def test_a_namespace_is_read_again_only_after_a_while() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    reader = LimitsReader(api, clock)
    assert await reader.read("team") is NO_LIMITS
    api.seed(quota({"requests.nvidia.com/gpu": "4"}))
    assert await reader.read("team") is NO_LIMITS
    await clock.advance(LIMITS_AGE_SECONDS)
    assert [bound.hard for bound in (await reader.read("team")).bounds] == [4]
    asked = [NAMESPACES.kind, RESOURCE_QUOTAS.kind, "LocalQueue", "LocalQueue"]
    assert [call.kind for call in api.calls] == asked * 2


def queue(kind: str, name: str, spec: dict[str, Any], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind, "metadata": metadata, "spec": spec}


async def test_the_cluster_queue_behind_the_default_queue_bounds_a_namespaces_jobs() -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    quotas = {"name": "h100", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": 8}]}
    api.seed(queue("LocalQueue", "default", {"clusterQueue": "research"}, "team"))
    api.seed(
        queue(
            "ClusterQueue",
            "research",
            {"resourceGroups": [{"coveredResources": ["nvidia.com/gpu"], "flavors": [quotas]}]},
        )
    )
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    api.seed(queue("ResourceFlavor", "h100", {"nodeLabels": labels}))
    (bound,) = (await LimitsReader(api, clock).read("team")).bounds
    assert (bound.source, bound.hard, bound.products) == ("ClusterQueue research", 8, ("NVIDIA-H100-80GB-HBM3",))
    assert await LimitsReader(api, clock).read("other") is NO_LIMITS


async def test_without_permission_nothing_is_bounded_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    api = FakeApi(clock)
    api.fail("list", Forbidden(403, "Forbidden", "no"), times=2)
    api.fail("get", Forbidden(403, "Forbidden", "no"), times=4)
    reader = LimitsReader(api, clock, maximum_age_seconds=0.0)
    with caplog.at_level(logging.WARNING):
        assert await reader.read("team") is NO_LIMITS
        assert await reader.read("team") is NO_LIMITS
    assert len(caplog.records) == 3
    assert "grant list on resourcequotas" in caplog.text
    assert "grant get on localqueues and clusterqueues and list on resourceflavors" in caplog.text


async def inspected(cluster: OperatedCluster) -> None:
    cluster.submit()
    await cluster.clock.advance(1)
    await cluster.inspected()


async def test_a_job_beyond_its_quota_is_told_the_numbers_and_starts_when_the_quota_has_grown(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        cluster.api.seed(quota({"requests.memory": "1Gi"}))
        await inspected(cluster)
        status = cluster.job().status
        assert status.state == "Pending"
        assert status.message is not None
        assert "ResourceQuota team-quota allows 1 GiB memory and it takes" in status.message
        planned = next(condition for condition in status.conditions if condition.type == "Planned")
        assert (planned.status, planned.reason) == ("False", "QuotaExceeded")
        await cluster.api.apply(quota({"requests.memory": "500Gi"}))
        await cluster.clock.advance(120)
        assert cluster.job().status.plan is not None


async def test_the_policy_of_a_namespace_bounds_its_jobs(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        cluster.api.seed(namespace(max_gpus="some"))
        await inspected(cluster)
        message = cluster.job().status.message
        assert message is not None
        assert "max-gpus of namespace team is 'some'; write a whole number of GPUs" in message


async def test_quotas_are_not_read_again_while_a_job_runs_or_after_its_end(tmp_path: Path) -> None:
    async with operating(operator_settings(tmp_path)) as cluster:
        await inspected(cluster)
        await cluster.running("tune-1")
        await cluster.clock.advance(60)
        cluster.api.forget_calls()
        await cluster.clock.advance(3600)
        assert [call for call in cluster.api.calls if call.kind in (NAMESPACES.kind, RESOURCE_QUOTAS.kind)] == []
