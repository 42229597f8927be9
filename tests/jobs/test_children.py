"""The rendered children: golden files for the eye, and the rules that every pod obeys.

Write the golden files anew with: REGENERATE_GOLDEN=1 pytest tests/jobs/test_children.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.constants import (
    CONFIG_MAP_DIRECTORY,
    GRACE_PERIOD_VARIABLE,
    JOB_LABEL,
    MAXIMUM_NAME_LENGTH,
    SPEC_HASH_ANNOTATION,
)
from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.jobs.children import inspect_job, inspection_config_map, publish_job
from finetune_operator.jobs.testing import (
    SETTINGS,
    attempt_children,
    first_container,
    make_file,
    make_job,
    make_plan,
    make_report,
)

GOLDEN = Path(__file__).parent / "golden"
RICH = {
    "model": {"uri": "hf://org/tiny", "cache": {"persistentVolumeClaim": "models"}},
    "credentials": {"model": {"secret": "hf"}, "storage": {"secret": "s3"}, "serviceAccount": "tuner"},
    "scheduling": {"priorityClass": "high"},
    "pod": {
        "labels": {"team": "a", JOB_LABEL: "stolen"},
        "annotations": {"note": "b"},
        "nodeSelector": {"zone": "z1", "nvidia.com/gpu.product": "other"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "env": [
            {"name": "HF_HOME", "value": "/workspace/hub"},
            {"name": "FINETUNE_WORK_DIRECTORY", "value": "/elsewhere"},
        ],
    },
}

OWN = {"trainer": {"image": "registry.example/train:1", "command": ["torchrun", "/train.py"], "args": ["--fast"]}}


def rendered() -> dict[str, list[dict[str, Any]]]:
    job, rich = make_job(), make_job(**RICH)
    return {
        "inspect": [inspect_job(job, SETTINGS), inspection_config_map(job.metadata, make_report(job))],
        "attempt-cpu-one-pod": attempt_children(job, make_plan(processes=2)),
        "attempt-gpu-two-pods": attempt_children(rich, make_plan(pods=2, processes=16, accelerator="gpu")),
        "attempt-own-script": attempt_children(make_job(**OWN), make_plan(pods=2, processes=16, accelerator="gpu")),
        "publish": [publish_job(job, make_file(job, make_plan()), SETTINGS)],
    }


@pytest.mark.parametrize("name", rendered())
def test_the_children_are_rendered_as_in_the_golden_file(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    text = json.dumps(rendered()[name], indent=1) + "\n"
    if os.environ.get("REGENERATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def jobs() -> list[dict[str, Any]]:
    return [body for bodies in rendered().values() for body in bodies if body["kind"] == "Job"]


def everything() -> list[dict[str, Any]]:
    return [body for bodies in rendered().values() for body in bodies]


@pytest.mark.parametrize("body", jobs(), ids=lambda body: body["metadata"]["name"])
def test_every_pod_obeys_the_restricted_pod_security_standard(body: dict[str, Any]) -> None:
    pod = body["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is (container["name"] != "script")
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {
        "emptyDir",
        "projected",
        "configMap",
        "downwardAPI",
        "persistentVolumeClaim",
    }


@pytest.mark.parametrize("body", everything(), ids=lambda body: f"{body['kind']}-{body['metadata']['name']}")
def test_every_child_is_owned_labelled_and_carries_its_digest(body: dict[str, Any]) -> None:
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == ("FineTuneJob", True, False)
    assert body["metadata"]["labels"][JOB_LABEL] == "tune"
    assert len(body["metadata"]["annotations"][SPEC_HASH_ANNOTATION]) == 16
    if body["kind"] == "Job":
        template = body["spec"]["template"]["metadata"]["labels"]
        assert body["metadata"]["labels"].items() <= template.items()


def test_a_user_adds_to_pods_but_cannot_take_their_marks() -> None:
    *_, body = rendered()["attempt-gpu-two-pods"]
    template = body["spec"]["template"]
    environment = {variable["name"]: variable.get("value") for variable in first_container(body)["env"]}
    assert template["metadata"]["labels"][JOB_LABEL] == "tune"
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["spec"]["nodeSelector"] == {"zone": "z1", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert environment["HF_HOME"] == "/workspace/hub"
    assert environment["FINETUNE_WORK_DIRECTORY"] == "/workspace"


def test_a_pod_knows_how_long_it_has_after_sigterm() -> None:
    job = make_job(pod={"terminationGracePeriodSeconds": 15, "env": [{"name": GRACE_PERIOD_VARIABLE, "value": "9"}]})
    *_, body = attempt_children(job, make_plan())
    environment = {variable["name"]: variable.get("value") for variable in first_container(body)["env"]}
    assert body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 15
    assert environment[GRACE_PERIOD_VARIABLE] == "15"


def test_no_environment_variable_or_mount_stands_twice() -> None:
    for body in jobs():
        container = first_container(body)
        for entries, key in ((container["env"], "name"), (container["volumeMounts"], "mountPath")):
            values = [entry[key] for entry in entries]
            assert len(values) == len(set(values)), "server-side apply refuses a list map with equal keys"


def test_the_inspect_pod_reads_its_request_from_its_own_annotation() -> None:
    body = rendered()["inspect"][0]
    annotations = body["spec"]["template"]["metadata"]["annotations"]
    (name, text) = next(iter(annotations.items()))
    assert InspectionRequest.model_validate_json(text).spec == make_job().spec
    (volume,) = (v for v in body["spec"]["template"]["spec"]["volumes"] if "downwardAPI" in v)
    assert volume["downwardAPI"]["items"] == [
        {"path": "request.json", "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}
    ]


def test_only_several_pods_get_a_service_and_a_subdomain() -> None:
    one, several = rendered()["attempt-cpu-one-pod"], rendered()["attempt-gpu-two-pods"]
    assert [body["kind"] for body in one] == ["ConfigMap", "Job"]
    assert [body["kind"] for body in several] == ["ConfigMap", "Service", "Job"]
    assert "subdomain" not in one[-1]["spec"]["template"]["spec"]
    assert several[-1]["spec"]["template"]["spec"]["subdomain"] == several[1]["metadata"]["name"]
    assert AttemptFile.model_validate_json(several[0]["data"]["plan.json"]).rendezvous_host == "tune-1-0.tune-1"


def test_a_script_of_a_users_own_takes_what_was_planned_and_ours_beside_it_no_gpu() -> None:
    config_map, *_, body = rendered()["attempt-own-script"]
    keeper, script = body["spec"]["template"]["spec"]["containers"]
    usual = first_container(rendered()["attempt-gpu-two-pods"][-1])
    assert (keeper["name"], keeper["image"]) == ("trainer", SETTINGS.inspect_image)
    assert "nvidia.com/gpu" not in keeper["resources"]["limits"]
    assert script["resources"] == usual["resources"]
    assert script["command"][-3:] == ["torchrun", "/train.py", "--fast"]
    environment = {variable["name"]: variable.get("value") for variable in script["env"]}
    assert (environment["PET_NNODES"], environment["PET_NPROC_PER_NODE"]) == ("2", "8")
    mounted = {mount["mountPath"] for mount in script["volumeMounts"]}
    for name in ("KUBEFLOW_TRAINER_SERVER_CA_CERT", "KUBEFLOW_TRAINER_SERVER_TOKEN", "FINETUNE_CHECKPOINT_FOLDER"):
        path = environment[name]
        assert path is not None
        assert any(path.startswith(f"{folder}/") for folder in mounted), name
    assert config_map["data"]["ca.crt"] == SETTINGS.progress.certificate_authority


def test_a_stopped_pod_is_counted_and_every_other_failure_fails_the_job() -> None:
    *_, body = rendered()["attempt-cpu-one-pod"]
    rules = body["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Count", "FailJob"]
    assert rules[1]["onExitCodes"]["values"] == [49, 143]
    assert rules[2]["onExitCodes"] == {"containerName": "trainer", "operator": "NotIn", "values": [0]}


def test_only_the_container_that_trains_gets_devices_as_limits_and_requests() -> None:
    devices = {"vpc.amazonaws.com/efa": "4", "rdma/hca_shared_devices_a": "1"}
    asked = [{"name": name, "count": int(count)} for name, count in devices.items()]
    with_devices, without = make_job(pod={"extendedResources": asked}), make_job()
    plan = make_plan(pods=2, processes=16, accelerator="gpu")

    given, usual = (first_container(attempt_children(job, plan)[-1])["resources"] for job in (with_devices, without))
    assert given == {part: {**usual[part], **devices} for part in ("requests", "limits")}

    keeper, script = attempt_children(make_job(**OWN, pod={"extendedResources": asked}), plan)[-1]["spec"]["template"][
        "spec"
    ]["containers"]
    assert script["resources"] == given
    beside = (inspect_job(with_devices, SETTINGS), publish_job(with_devices, make_file(with_devices, plan), SETTINGS))
    assert not any(
        name in str(body["resources"]) for name in devices for body in (keeper, *map(first_container, beside))
    )


def test_host_names_of_the_longest_job_name_fit() -> None:
    job = make_job("a" * MAXIMUM_NAME_LENGTH)
    _, service, body = attempt_children(job, make_plan(pods=2))
    assert len(f"{body['metadata']['name']}-1023") <= 63
    assert len(service["metadata"]["name"]) <= 63


def test_no_local_disk_is_asked_for_where_the_nodes_offer_none() -> None:
    job, plan = make_job(), make_plan()
    plan = plan.model_copy(update={"resources": plan.resources.model_copy(update={"ephemeral_storage_bytes": 0})})
    train = next(body for body in attempt_children(job, plan) if body["kind"] == "Job")
    for made in (train, publish_job(job, make_file(job, plan), SETTINGS)):
        pod = made["spec"]["template"]["spec"]
        assert "ephemeral-storage" not in pod["containers"][0]["resources"]["requests"]
        assert pod["volumes"][0] == {"name": "work", "emptyDir": {}}


def test_config_maps_with_functions_are_mounted_where_they_are_read_and_run() -> None:
    rewards = [{"function": f"{name}:score", "configMap": f"{name}-rewards"} for name in ("one", "other", "one")]
    job = make_job(objective="grpo", training={"globalBatchSize": 8, "grpo": {"rewards": rewards}})
    file = make_file(job, make_plan())
    pods = [
        body["spec"]["template"]["spec"]
        for body in (inspect_job(job, SETTINGS), attempt_children(job, make_plan())[-1])
    ]
    for pod in pods:
        named = {each["name"]: each["configMap"] for each in pod["volumes"] if each["name"].startswith("config-map-")}
        mounts = {each["name"]: each for each in pod["containers"][0]["volumeMounts"]}
        assert [each["name"] for each in named.values()] == ["one-rewards", "other-rewards"]
        for volume, source in named.items():
            assert source["optional"] is True  # the inspection says what is missing, the kubelet does not
            assert mounts[volume]["mountPath"] == f"{CONFIG_MAP_DIRECTORY}/{source['name']}"
            assert mounts[volume]["readOnly"] is True
    assert "one-rewards" not in json.dumps(publish_job(job, file, SETTINGS)["spec"])


def test_rows_are_compared_by_meaning_in_the_trainers_image_and_judged_with_the_judges_key() -> None:
    semantic = {"deduplicate": "semantic", "semantic": {"uri": "hf://org/vectors"}}
    judge = {"judge": {"url": "http://judge/v1", "model": "big"}}
    uri, keys = "s3://data/rows.jsonl", {"judge": {"secret": "judge-key"}}

    def pod(**filters: Any) -> dict[str, Any]:
        job = make_job(dataset={"uri": uri, "filters": filters}, credentials=keys)
        return first_container(inspect_job(job, SETTINGS))

    assert pod()["image"] == pod(**judge)["image"] == SETTINGS.inspect_image
    assert pod(**semantic)["image"] == SETTINGS.trainer_image
    assert pod(**semantic)["resources"]["limits"]["memory"] == "8192Mi"
    assert pod(**judge)["envFrom"] == [{"secretRef": {"name": "judge-key"}}]
    assert "envFrom" not in pod(**semantic)
