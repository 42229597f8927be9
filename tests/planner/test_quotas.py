"""Which quotas bind a job's pods, read from the objects that Kubernetes and Kueue keep."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.plan import GIB
from finetune_operator.planner.limits import Bound
from finetune_operator.planner.quotas import namespace_limits, queue_bounds, quota_bounds

H100, A100 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB"


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    status = {"hard": hard, "used": used or {}}
    return {"metadata": {"name": "team-quota"}, "spec": {"hard": hard, **spec}, "status": status}


def namespace(**annotations: str) -> dict[str, Any]:
    named = {f"finetune-operator.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"metadata": {"name": "team", "annotations": named}}


def hard(bounds: tuple[Bound, ...]) -> dict[str, int]:
    return {bound.resource: bound.hard for bound in bounds}


def test_a_quota_bounds_what_our_pods_ask_for() -> None:
    bounds = quota_bounds(
        quota(
            {
                "requests.cpu": "96",
                "limits.memory": "512Gi",
                "requests.ephemeral-storage": "2Ti",
                "requests.nvidia.com/gpu": "8",
                "requests.nvidia.com/mig-1g.10gb": "4",
                "pods": "20",
                "count/jobs.batch": "10",
            },
            {"requests.nvidia.com/gpu": "6", "requests.cpu": "1500m"},
        )
    )
    assert hard(bounds) == {
        "cpu": 96_000,
        "memory": 512 * GIB,
        "ephemeral-storage": 2048 * GIB,
        "nvidia.com/gpu": 8,
        "nvidia.com/mig-1g.10gb": 4,
        "pods": 20,
        "jobs.batch": 10,
    }
    used = {bound.resource: bound.used for bound in bounds}
    assert (used["nvidia.com/gpu"], used["cpu"]) == (6, 1500)
    assert {bound.source for bound in bounds} == {"ResourceQuota team-quota"}


@pytest.mark.parametrize(
    "key", ["limits.cpu", "persistentvolumeclaims", "requests.storage", "count/secrets", "services"]
)
def test_a_quota_of_what_training_pods_do_not_ask_for_bounds_nothing(key: str) -> None:
    assert quota_bounds(quota({key: "0"})) == ()


def test_a_quota_without_status_is_read_from_its_spec() -> None:
    body = quota({"requests.nvidia.com/gpu": "2"})
    del body["status"]
    assert hard(quota_bounds(body)) == {"nvidia.com/gpu": 2}


@pytest.mark.parametrize(
    ("scopes", "binds"),
    [
        (["NotTerminating"], True),
        (["NotTerminating", "NotBestEffort"], True),
        (["Terminating"], False),
        (["BestEffort"], False),
        (["CrossNamespacePodAffinity"], False),
    ],
)
def test_only_quotas_whose_scope_is_that_of_training_pods_bind(scopes: list[str], binds: bool) -> None:
    assert bool(quota_bounds(quota({"pods": "1"}, scopes=scopes))) is binds
    selector = {"matchExpressions": [{"scopeName": scope, "operator": "Exists"} for scope in scopes]}
    assert bool(quota_bounds(quota({"pods": "1"}, scopeSelector=selector))) is binds


@pytest.mark.parametrize(
    ("operator", "values", "of_the_job", "binds"),
    [
        ("In", ["high"], "high", True),
        ("In", ["high"], "low", False),
        ("In", ["high"], None, False),
        ("NotIn", ["high"], "low", True),
        ("NotIn", ["high"], "high", False),
        ("Exists", [], "low", True),
        ("Exists", [], None, False),
        ("DoesNotExist", [], None, True),
    ],
)
def test_quotas_of_a_priority_class_bind_jobs_of_that_class(
    operator: str, values: list[str], of_the_job: str | None, binds: bool
) -> None:
    selector = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}
    assert bool(quota_bounds(quota({"pods": "1"}, scopeSelector=selector), of_the_job)) is binds


def test_annotations_of_the_namespace_are_its_policy() -> None:
    limits = namespace_limits(namespace(gpu_products=f"{A100}, {H100}", max_gpus="4"), [quota({"pods": "3"})])
    assert (limits.gpu_products, limits.max_gpus) == ((A100, H100), 4)
    assert limits.policy == "namespace team"
    assert hard(limits.bounds) == {"pods": 3}


def test_a_policy_that_cannot_be_read_closes_the_namespace_and_says_what_to_write() -> None:
    limits = namespace_limits(namespace(max_gpus="plenty"), [])
    assert limits.problem == (
        "annotation finetune-operator.dev/max-gpus of namespace team is 'plenty'; write a whole number of GPUs such as 8"
    )


def cluster_queue(*flavours: tuple[str, dict[str, Any]], **spec: Any) -> dict[str, Any]:
    listed = [{"name": name, "resources": [{"name": "nvidia.com/gpu", **numbers}]} for name, numbers in flavours]
    group = {"coveredResources": ["nvidia.com/gpu"], "flavors": listed}
    return {"metadata": {"name": "research"}, "spec": {"resourceGroups": [group], **spec}}


def flavour(name: str, product: str | None = None) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product} if product else {}
    return {"metadata": {"name": name}, "spec": {"nodeLabels": labels}}


def most(bounds: tuple[Bound, ...], product: str) -> int | None:
    return min((bound.hard for bound in bounds if bound.is_about(product)), default=None)


FLAVOURS = [flavour("h100", H100), flavour("a100", A100), flavour("any")]


def test_a_queue_bounds_each_gpu_type_by_its_flavour() -> None:
    bounds = queue_bounds(cluster_queue(("h100", {"nominalQuota": 8}), ("a100", {"nominalQuota": "16"})), FLAVOURS)
    assert (most(bounds, H100), most(bounds, A100)) == (8, 16)
    assert bounds[0].source == "ClusterQueue research"


def test_a_flavour_without_a_product_is_for_all_types() -> None:
    bounds = queue_bounds(cluster_queue(("h100", {"nominalQuota": 8}), ("any", {"nominalQuota": 2})), FLAVOURS)
    assert (most(bounds, H100), most(bounds, A100)) == (8, 2)


@pytest.mark.parametrize("cohort", ["cohort", "cohortName"])
def test_a_queue_in_a_cohort_may_borrow_up_to_its_limit(cohort: str) -> None:
    numbers = {"nominalQuota": 8, "borrowingLimit": 4}
    assert most(queue_bounds(cluster_queue(("h100", numbers)), FLAVOURS), H100) == 8
    assert most(queue_bounds(cluster_queue(("h100", numbers), **{cohort: "all"}), FLAVOURS), H100) == 12
    unbounded = queue_bounds(cluster_queue(("h100", {"nominalQuota": 8}), **{cohort: "all"}), FLAVOURS)
    assert most(unbounded, H100) is None
