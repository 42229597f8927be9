"""What Helm makes of the chart, with no cluster: settings the operator knows, a pod that a careful cluster admits."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import pytest
import yaml
from testbed import tools
from testbed.processes import TestbedError, output
from testbed.rendered_chart import CHART, Body, only, render

from finetune_operator.controller.settings import OperatorSettings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]  # Helm may have to be compiled first

ROOT = Path(__file__).resolve().parents[2]

EVERYTHING: Body = {
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]},
    "monitoring": {
        name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
    },
    "tls": {"certManager": {"enabled": True}},
    "operator": {
        "env": [{"name": "API_TIMEOUT_SECONDS", "value": "20"}],
        "podLabels": {"team": "ml"},
        "podAnnotations": {"note": "x"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
    },
    "images": {"pullSecrets": ["registry"]},
    "imagePullSecrets": ["registry"],
    "serviceAccount": {"annotations": {"note": "x"}},
    "service": {"annotations": {"note": "x"}},
}


def container(values: Body | None = None) -> Body:
    (operator,) = only("Deployment", values)["spec"]["template"]["spec"]["containers"]
    return dict(operator)


def environment(values: Body | None = None) -> dict[str, str]:
    """Return the container's environment as the kubelet would make it."""
    downward = {"metadata.namespace": "operators", "metadata.name": "finetune-operator-0"}
    return {
        entry["name"]: entry["value"] if "value" in entry else downward[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in container(values)["env"]
    }


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, {"watchNamespaces": ["a", "b"]}], ids=["defaults", "all", "namespaces"]
)
def test_the_operator_reads_the_environment_that_the_chart_sets(values: Body) -> None:
    given = environment(values)
    settings = OperatorSettings.from_environment(given)
    assert settings.operator_namespace == "operators"
    assert settings.lease_name == "finetune-operator"
    assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "all"])
def test_every_variable_that_the_chart_sets_is_one_that_the_operator_knows(values: Body) -> None:
    known = {name.upper() for name in OperatorSettings.model_fields}
    assert set(environment(values)) <= known


def test_the_ports_are_those_that_the_operator_listens_on() -> None:
    settings = OperatorSettings.from_environment(environment())
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"progress": settings.progress_port, "metrics": settings.health_port}


def test_values_reach_the_settings() -> None:
    values = {
        "operator": {"workers": 3, "logLevel": "DEBUG", "resyncSeconds": 60},
        "images": {"pullSecrets": ["a", "b"]},
    }
    settings = OperatorSettings.from_environment(environment(values))
    assert (settings.workers, settings.log_level, settings.resync_seconds) == (3, "DEBUG", 60)
    assert settings.image_pull_secrets == ("a", "b")


def test_the_folder_of_nodes_for_models_is_off_unless_it_is_named() -> None:
    path = "/var/lib/finetune-operator/models"
    settings = OperatorSettings.from_environment(environment({"modelCache": {"nodePath": path}}))
    assert settings.node_cache_path == path
    assert OperatorSettings.from_environment(environment()).node_cache_path == ""


def test_prices_reach_the_planner_and_are_absent_without_a_table() -> None:
    prices = {"currency": "EUR", "perGpuHour": {"NVIDIA-H100-80GB-HBM3": 2.5, "NVIDIA-L4": 0.75}}
    settings = OperatorSettings.from_environment(environment({"planner": {"prices": prices}}))
    assert settings.planner_prices.to_json_dict() == prices
    assert "PLANNER_PRICES" not in environment({"planner": {"prices": {"currency": "EUR"}}})


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    values = {
        "images": {
            "trainer": {"repository": "r/trainer", "tag": "x", "digest": digest},
            "inspect": {"repository": "r/i", "tag": "y"},
        }
    }
    settings = OperatorSettings.from_environment(environment(values))
    assert (settings.trainer_image, settings.inspect_image) == (f"r/trainer@{digest}", "r/i:y")


def test_pods_report_to_the_service_that_the_chart_makes() -> None:
    service = only("Service")
    settings = OperatorSettings.from_environment(environment())
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "progress")
    assert settings.progress_url == f"https://{service['metadata']['name']}.operators.svc:{port}"
    labels = only("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_certificate_is_valid_for_the_service_and_signed_by_its_authority(tmp_path: Path) -> None:
    data = {name: base64.b64decode(text) for name, text in only("Secret")["data"].items()}
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    checked = output(
        "openssl",
        "verify",
        "-CAfile",
        tmp_path / "ca.crt",
        "-verify_hostname",
        "finetune-operator.operators.svc",
        tmp_path / "tls.crt",
    )
    assert checked.strip().endswith("OK")


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
def test_every_pod_passes_the_restricted_policy(kind: str) -> None:
    body = only(kind)
    spec = body["spec"]["template"]["spec"] if kind == "Deployment" else body["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in spec["containers"]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_pod_has_more_time_to_end_than_its_pre_stop_sleep_and_drain_take() -> None:
    spec = only("Deployment")["spec"]["template"]["spec"]
    sleep = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= sleep + 10 + 10


def test_memory_is_requested_and_limited() -> None:
    resources = container()["resources"]
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("256Mi", "768Mi")


def test_the_crd_is_kept_when_the_release_goes_and_otherwise_unchanged() -> None:
    crd = only("CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    unchanged = {**crd, "metadata": {"name": crd["metadata"]["name"]}}
    assert unchanged == yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())


def test_the_crd_can_be_left_to_somebody_else() -> None:
    assert not [body for body in render({"crds": {"enabled": False}}) if body["kind"] == "CustomResourceDefinition"]


def test_one_replica_has_no_disruption_budget() -> None:
    assert only("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert not [body for body in render({"replicas": 1}) if body["kind"] == "PodDisruptionBudget"]


def test_an_existing_secret_is_used_and_none_is_made() -> None:
    values = {"tls": {"existingSecret": "mine"}}
    volumes = only("Deployment", values)["spec"]["template"]["spec"]["volumes"]
    assert next(volume for volume in volumes if volume["name"] == "tls")["secret"]["secretName"] == "mine"
    assert not [body for body in render(values) if body["kind"] in ("Secret", "Certificate", "Issuer")]


def test_with_cert_manager_the_certificate_is_signed_by_an_authority_of_its_own() -> None:
    values = {"tls": {"certManager": {"enabled": True}}}
    authority = only("Certificate", values, name="-authority")
    issuer = next(b for b in render(values) if b["kind"] == "Issuer" and "ca" in b["spec"])
    assert issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"]
    assert not [body for body in render(values) if body["kind"] == "Secret"]


def test_with_an_issuer_of_the_cluster_no_authority_is_made() -> None:
    values = {"tls": {"certManager": {"enabled": True, "issuerRef": {"kind": "ClusterIssuer", "name": "company"}}}}
    assert only("Certificate", values)["spec"]["issuerRef"]["name"] == "company"
    assert not [body for body in render(values) if body["kind"] == "Issuer"]


def test_finished_pods_are_not_scraped_and_every_rank_is() -> None:
    (endpoint,) = only("PodMonitor", EVERYTHING)["spec"]["podMetricsEndpoints"]
    actions = {relabeling["action"]: relabeling for relabeling in endpoint["relabelings"]}
    assert actions["keep"]["regex"] == "metrics-[0-9]+"
    assert "Succeeded" in actions["drop"]["regex"]
    assert "port" not in endpoint


def test_alerts_and_dashboards_arrive_unchanged() -> None:
    rule = only("PrometheusRule", EVERYTHING)
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    for body in render(EVERYTHING):
        if body["kind"] == "ConfigMap":
            ((name, text),) = body["data"].items()
            assert json.loads(text) == json.loads((CHART / "dashboards" / name).read_text())


def test_optional_parts_are_absent_by_default() -> None:
    optional = {"NetworkPolicy", "ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap", "Certificate", "Issuer"}
    assert not optional & {body["kind"] for body in render()}


def test_a_release_of_another_name_gets_names_of_its_own() -> None:
    text = output(tools.path("helm"), "template", "blue", CHART, "--namespace", "operators")
    names = {body["metadata"]["name"] for body in yaml.safe_load_all(text) if body}
    assert all(name.startswith("blue-finetune-operator") for name in names - {"finetunejobs.finetune-operator.dev"})


def test_a_misspelt_value_is_refused_by_helm_with_its_name() -> None:
    with pytest.raises(TestbedError, match="additional properties 'replica' not allowed"):
        render({"replica": 2})


def test_helm_finds_nothing_to_complain_about() -> None:
    output(tools.path("helm"), "lint", CHART, "--strict", "--quiet")
