"""The least privilege: what the chart lets the operator do, and what it lets people do."""

from __future__ import annotations

import pytest
from testbed.rendered_chart import Body, only, render

from finetune_operator.api.constants import PLURAL
from finetune_operator.controller.kube import (
    CLUSTER_QUEUES,
    EVENTS,
    LEASES,
    LOCAL_QUEUES,
    NAMESPACES,
    NODES,
    RESOURCE_FLAVORS,
    RESOURCE_QUOTAS,
    RESOURCES,
    TOKEN_REVIEWS,
    Resource,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]  # Helm may have to be compiled first


def rules(values: Body | None = None, *, kinds: tuple[str, ...] = ("Role", "ClusterRole")) -> list[Body]:
    """Return what the operator itself may do."""
    roles = [body for body in render(values) if body["kind"] in kinds]
    return [
        rule for role in roles if not role["metadata"]["name"].endswith(("-view", "-edit")) for rule in role["rules"]
    ]


def allowed(resource: Resource, verb: str, values: Body | None = None) -> bool:
    return any(
        resource.group in rule["apiGroups"] and resource.plural in rule["resources"] and verb in rule["verbs"]
        for rule in rules(values)
    )


def test_no_role_has_a_wildcard_and_none_reads_secrets() -> None:
    for rule in rules():
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert "secrets" not in rule["resources"]
        assert not {"pods/exec", "pods/attach", "pods/portforward", "pods/log"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=lambda resource: resource.plural)
def test_the_operator_may_use_every_kind_that_it_knows(resource: Resource) -> None:
    verbs = ("create",) if resource == TOKEN_REVIEWS or resource.plural == "events" else ("get",)
    assert all(allowed(resource, verb) for verb in verbs)


@pytest.mark.parametrize("plural", ["jobs", "configmaps", "services", "events"])
def test_what_is_applied_may_be_created_and_patched(plural: str) -> None:
    resource = next(resource for resource in RESOURCES.values() if resource.plural == plural)
    assert allowed(resource, "create")
    assert allowed(resource, "patch")


def test_the_operator_may_read_the_events_that_tell_why_pods_are_not_created() -> None:
    assert allowed(EVENTS, "list")


def test_the_status_may_be_written_and_the_spec_of_no_job_created() -> None:
    job_rules = [rule for rule in rules() if f"{PLURAL}/status" in rule["resources"]]
    assert job_rules
    assert all("patch" in rule["verbs"] for rule in job_rules)
    assert not any(PLURAL in rule["resources"] and {"create", "update"} & set(rule["verbs"]) for rule in rules())


def test_the_lease_may_be_written_in_the_own_namespace_only() -> None:
    cluster_wide = [rule for rule in rules(kinds=("ClusterRole",)) if LEASES.plural in rule["resources"]]
    assert cluster_wide == []
    assert allowed(LEASES, "update")


def test_the_history_is_one_configmap_of_the_own_namespace_that_may_be_written_by_its_name_alone() -> None:
    values = {"watchNamespaces": ["a"]}
    roles = [body for body in render(values) if body["kind"] == "Role" and body["metadata"]["namespace"] == "operators"]
    (rule,) = [rule for role in roles for rule in role["rules"] if "configmaps" in rule["resources"]]
    env = only("Deployment", values)["spec"]["template"]["spec"]["containers"][0]["env"]
    name = next(entry["value"] for entry in env if entry["name"] == "HISTORY_NAME")
    assert (rule["resourceNames"], rule["verbs"]) == ([name], ["get", "create", "patch"])


@pytest.mark.parametrize(
    "resource",
    [NAMESPACES, RESOURCE_QUOTAS, LOCAL_QUEUES[0], CLUSTER_QUEUES[0], RESOURCE_FLAVORS[0]],
    ids=lambda resource: resource.plural,
)
def test_namespaces_their_quotas_and_queues_may_only_be_read(resource: Resource) -> None:
    verbs = {verb for rule in rules() if resource.plural in rule["resources"] for verb in rule["verbs"]}
    assert verbs
    assert verbs <= {"get", "list"}


def test_with_watch_namespaces_only_nodes_and_token_reviews_are_cluster_wide() -> None:
    values = {"watchNamespaces": ["a", "b"]}
    cluster_wide = {name for rule in rules(values, kinds=("ClusterRole",)) for name in rule["resources"]}
    assert cluster_wide == {NODES.plural, TOKEN_REVIEWS.plural}
    namespaces = {body["metadata"]["namespace"] for body in render(values) if body["kind"] == "Role"}
    assert namespaces == {"a", "b", "operators"}


def test_every_role_is_bound_to_the_operators_account() -> None:
    for values in ({}, {"watchNamespaces": ["a"]}, {"serviceAccount": {"create": False, "name": "mine"}}):
        account = only("Deployment", values)["spec"]["template"]["spec"]["serviceAccountName"]
        bindings = [body for body in render(values) if body["kind"].endswith("Binding")]
        assert bindings
        for binding in bindings:
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "operators"}]


def test_nothing_of_rbac_is_made_when_somebody_else_makes_it() -> None:
    values = {"rbac": {"create": False, "aggregate": False}, "serviceAccount": {"create": False, "name": "mine"}}
    kinds = {body["kind"] for body in render(values)}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ServiceAccount"}


def test_people_who_edit_a_namespace_may_make_jobs_but_not_their_status() -> None:
    edit = only("ClusterRole", name="-edit")
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert [rule["resources"] for rule in edit["rules"]] == [[PLURAL]]
