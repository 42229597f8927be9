"""The chart on a real API server: what it grants is enough for the operator and no more, and what must last lasts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.control_plane import ControlPlane
from testbed.fake_nodes import add_fake_nodes
from testbed.helm import Helm
from testbed.operator_process import OperatorProcess
from testbed.processes import TestbedError, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # programs may have to be compiled first

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "finetune-operator"
NAMESPACE = "operators"
RELEASE = "finetune-operator"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
Body = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("chart") / "control-plane")
    try:
        plane.start()
        add_fake_nodes(plane, 1)
        for name in ("team-a", "team-b"):
            plane.kubectl("create", "namespace", name)
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def helm(cluster: ControlPlane) -> Helm:
    return Helm(cluster.kubeconfig, cluster.directory)


def install(helm: Helm, chart: Path = CHART, **values: Any) -> None:
    arguments = ["--namespace", NAMESPACE, "--create-namespace", "--values", "-"]
    helm("upgrade", "--install", RELEASE, chart, *arguments, stdin=json.dumps(values))


@pytest.fixture
def installed(cluster: ControlPlane, helm: Helm) -> Iterator[ControlPlane]:
    install(helm)
    cluster.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune-operator.dev", "--timeout=30s")
    yield cluster
    helm("uninstall", RELEASE, "--namespace", NAMESPACE)


def job(name: str, namespace: str) -> Body:
    manifest: Body = {
        "apiVersion": "finetune-operator.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://org/tiny"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": f"s3://models/{name}"},
        },
    }
    return manifest


def may(cluster: ControlPlane, account: str, verb: str, resource: str, *scope: str) -> bool:
    answer = cluster.try_kubectl("auth", "can-i", verb, resource, "--as", account, *scope)
    return answer.stdout.strip() == "yes"


def as_the_chart_runs_it(cluster: ControlPlane, name: str) -> OperatorProcess:
    """The operator as a process of this machine, but with the Deployment's settings and its ServiceAccount's rights."""
    deployment = cluster.get("deployment", RELEASE, NAMESPACE)
    assert deployment is not None
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    of_this_machine = {"PROGRESS_URL", "PROGRESS_CA_FILE", "TLS_DIRECTORY", "POD_NAME", "OPERATOR_NAMESPACE"}
    settings = {entry["name"]: entry["value"] for entry in container["env"] if entry["name"] not in of_this_machine}
    config = json.loads(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", RELEASE, "--namespace", NAMESPACE).strip()
    config["users"] = [{"name": "admin", "user": {"token": token}}]
    kubeconfig = cluster.directory / f"{name}.kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    process = OperatorProcess(cluster, name)
    process._environment.update(settings, OPERATOR_NAMESPACE=NAMESPACE, KUBECONFIG=str(kubeconfig))
    return process


def wait_for_inspection(cluster: ControlPlane, name: str, namespace: str) -> None:
    """Wait until the operator has started to inspect the job, and has said so in its status."""
    cluster.wait_for("ftj", name, lambda body: body.get("status", {}).get("state") == "Inspecting", namespace=namespace)
    assert cluster.get("job", f"{name}-inspect", namespace) is not None


def metric(process: OperatorProcess, start: str) -> list[str]:
    return [line for line in process.get("/metrics")[1].splitlines() if line.startswith(start)]


@pytest.mark.parametrize("namespaces", [[], ["team-a"]], ids=["all namespaces", "one namespace"])
def test_what_the_chart_grants_is_enough_for_the_operator(
    installed: ControlPlane, helm: Helm, namespaces: list[str]
) -> None:
    install(helm, watchNamespaces=namespaces)
    name = "granted-everywhere" if not namespaces else "granted-here"
    process = as_the_chart_runs_it(installed, name)
    process.start()
    try:
        installed.apply(job(name, "team-a"))
        wait_for_inspection(installed, name, "team-a")
        for _ in until(10, pause=0.2):
            if metric(process, "finetune_operator_events_total"):
                break
        assert process.get("/readyz")[0] == 200
        assert [line for line in metric(process, "finetune_operator_api_requests_total") if 'code="403"' in line] == []
        assert "forbidden" not in process.log().lower()
    finally:
        process.stop()
        installed.kubectl("delete", "ftj", name, "--namespace", "team-a")


def test_the_operator_may_not_read_secrets_or_enter_pods(installed: ControlPlane) -> None:
    everywhere = ("--all-namespaces",)
    assert may(installed, ACCOUNT, "list", "finetunejobs.finetune-operator.dev", *everywhere)
    for verb, resource in (("get", "secrets"), ("list", "secrets"), ("create", "pods"), ("create", "pods/exec")):
        assert not may(installed, ACCOUNT, verb, resource, *everywhere), f"{verb} {resource}"


def test_with_watch_namespaces_it_may_not_look_into_others(installed: ControlPlane, helm: Helm) -> None:
    install(helm, watchNamespaces=["team-a"])
    assert may(installed, ACCOUNT, "list", "jobs.batch", "--namespace", "team-a")
    assert not may(installed, ACCOUNT, "list", "jobs.batch", "--namespace", "team-b")
    assert may(installed, ACCOUNT, "list", "nodes")
    for verb in ("get", "create", "patch"):
        assert may(installed, ACCOUNT, verb, f"configmaps/{RELEASE}-history", "--namespace", NAMESPACE), verb
        assert not may(installed, ACCOUNT, verb, "configmaps/another", "--namespace", NAMESPACE), verb


def test_who_edits_a_namespace_may_make_jobs_there_and_who_views_it_may_not(installed: ControlPlane) -> None:
    for role in ("edit", "view"):
        arguments = ["--clusterrole", role, "--user", role, "--namespace", "team-a"]
        installed.kubectl("create", "rolebinding", f"test-{role}", *arguments)
    for _ in until(10, pause=0.2):  # a controller of Kubernetes aggregates the roles
        if may(installed, "edit", "create", "finetunejobs.finetune-operator.dev", "--namespace", "team-a"):
            break
    here = ("finetunejobs.finetune-operator.dev", "--namespace", "team-a")
    assert may(installed, "edit", "create", *here)
    assert may(installed, "view", "watch", *here)
    assert not may(installed, "view", "create", *here)
    assert not may(installed, "edit", "patch", *here, "--subresource=status")


def test_the_certificate_stays_the_same_over_an_upgrade(installed: ControlPlane, helm: Helm) -> None:
    before = installed.get("secret", f"{RELEASE}-tls", NAMESPACE)
    install(helm, replicas=1)
    after = installed.get("secret", f"{RELEASE}-tls", NAMESPACE)
    assert before is not None
    assert after is not None
    assert before["data"] == after["data"]


def test_jobs_and_their_crd_stay_when_the_release_goes_and_the_next_one_takes_them_over(
    installed: ControlPlane, helm: Helm
) -> None:
    installed.apply(job("lasting", "team-a"))
    helm("uninstall", RELEASE, "--namespace", NAMESPACE)
    assert installed.get("ftj", "lasting", "team-a") is not None
    assert installed.get("deployment", RELEASE, NAMESPACE) is None
    install(helm)
    assert installed.get("ftj", "lasting", "team-a") is not None


def older_chart(folder: Path) -> Path:
    """Copy the chart with a CRD that lacks the print columns."""
    shutil.copytree(CHART, folder)
    file = folder / "files" / "crds" / "finetunejobs.yaml"
    file.write_text(re.sub(r"      additionalPrinterColumns:\n(        .*\n)+", "", file.read_text()))
    return folder


def test_an_upgrade_brings_the_crd_of_the_chart(installed: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    def columns() -> list[str]:
        crd = installed.get("crd", "finetunejobs.finetune-operator.dev")
        assert crd is not None
        return [column["name"] for column in crd["spec"]["versions"][0].get("additionalPrinterColumns", ())]

    install(helm, older_chart(tmp_path / "older"))
    assert columns() == []
    install(helm)
    assert columns() == ["State", "Method", "GPUs", "Step", "Loss", "ETA", "Age"]


def test_the_api_server_admits_the_pods_into_a_restricted_namespace(installed: ControlPlane, helm: Helm) -> None:
    installed.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    text = helm("template", RELEASE, CHART, "--namespace", NAMESPACE)
    for body in yaml.safe_load_all(text):
        if body and body["kind"] in ("Deployment", "Pod"):
            pod = body["spec"]["template"] if body["kind"] == "Deployment" else body
            one = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "try", "namespace": NAMESPACE},
                "spec": pod["spec"],
            }
            installed.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(one))


def test_a_namespace_that_does_not_exist_is_an_error_of_the_install(installed: ControlPlane, helm: Helm) -> None:
    with pytest.raises(TestbedError, match='namespaces "nowhere" not found'):
        install(helm, watchNamespaces=["nowhere"])
