"""The main job on a real cluster, asserted from outside, and what happens when something goes wrong in the middle of it.

Every job here is examples/sft-lora.yaml with more steps: a tiny Llama learns real questions and answers in two pods (FSDP2 over gloo), seen
through kubectl, the bucket, Prometheus and the run events alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from testbed.installation import OPERATOR_NAMESPACE, Inputs, condition
from testbed.main_job import (
    CLAIM,
    NAMESPACE,
    STEPS,
    Story,
    adapter_digest,
    again,
    finish,
    manifest_of,
    submit,
)
from testbed.model_volumes import downloads
from testbed.node import NodeCluster
from testbed.prometheus import Prometheus
from testbed.s3 import S3Server


@pytest.fixture(scope="module")
def cluster(team_cluster: NodeCluster) -> NodeCluster:
    return team_cluster


@pytest.fixture(scope="module")
def main_job(undisturbed: Story) -> dict[str, Any]:
    """The main job, undisturbed, at its end."""
    return undisturbed.job


def test_the_main_job_ends_with_a_verified_model(main_job: dict[str, Any], s3_server: S3Server) -> None:
    manifest = manifest_of(s3_server, "word-problems")

    assert main_job["status"]["result"]["uri"] == "s3://models/word-problems"
    assert manifest["uid"] == main_job["metadata"]["uid"]
    names = {entry["name"] for entry in manifest["files"]}
    assert {"adapter/adapter_model.safetensors", "model.safetensors", "README.md", "config.json"} <= names
    for entry in manifest["files"]:
        key = f"word-problems/{entry['name']}"
        body = s3_server.client().get_object(Bucket="models", Key=key)["Body"].read()
        assert len(body) == entry["size"]
        assert hashlib.sha256(body).hexdigest() == entry["sha256"], key


def test_every_kept_checkpoint_has_a_manifest_that_its_files_obey(
    main_job: dict[str, Any], s3_server: S3Server
) -> None:
    client = s3_server.client()
    uid = main_job["metadata"]["uid"][:8]
    listing = client.list_objects_v2(Bucket="models", Prefix=f"word-problems/checkpoints/word-problems-{uid}/")[
        "Contents"
    ]
    manifests = [entry["Key"] for entry in listing if entry["Key"].endswith("/manifest.json")]

    assert len(manifests) == 2, "checkpoint.keep"
    for key in manifests:
        folder = key.removesuffix("/manifest.json")
        for entry in json.loads(client.get_object(Bucket="models", Key=key)["Body"].read())["files"]:
            body = client.get_object(Bucket="models", Key=f"{folder}/{entry['name']}")["Body"].read()
            assert hashlib.sha256(body).hexdigest() == entry["sha256"]


def test_the_plan_was_kept_and_scored(main_job: dict[str, Any]) -> None:
    plan = main_job["status"]["plan"]

    assert (plan["pods"], plan["processes"], plan["strategy"]) == (2, 2, "fsdp")
    assert plan["microBatchSize"] * plan["gradientAccumulation"] * plan["processes"] == 16
    assert float(plan["measuredGiB"]) < float(plan["upperGiB"])


def test_every_row_was_inspected_before_training(main_job: dict[str, Any], inputs: Inputs) -> None:
    inspection = main_job["status"]["inspection"]

    assert inspection["rows"] + inspection["dropped"] == len(inputs.rows.read_text().splitlines())
    assert inspection["architecture"] == "LlamaForCausalLM"


def test_the_way_of_the_job_is_told_by_conditions_and_events(main_job: dict[str, Any], cluster: NodeCluster) -> None:
    true = {c["type"] for c in main_job["status"]["conditions"] if c["status"] == "True"}
    events = cluster.list("events", NAMESPACE)
    reasons = {event["reason"] for event in events if event["involvedObject"]["name"] == "word-problems"}

    assert {"Accepted", "Inspected", "Planned", "Published", "Complete"} <= true
    assert "Failed" not in true
    assert {"Inspected", "Planned", "Published", "Succeeded"} <= reasons


def test_people_see_it_in_one_line(main_job: dict[str, Any], cluster: NodeCluster, prometheus: Prometheus) -> None:
    header, line = cluster.kubectl("get", "ftj", "word-problems", "--namespace", NAMESPACE).splitlines()

    assert header.split() == ["NAME", "STATE", "METHOD", "GPUS", "STEP", "LOSS", "ETA", "AGE"]
    assert line.split()[:5] == ["word-problems", "Complete", "lora", "0", f"{STEPS}/{STEPS}"]
    first = next(iter(prometheus.history('finetune_loss{job="word-problems", rank="0"}', 1200).values()))[0]
    assert float(line.split()[5]) < first


def test_prometheus_has_the_curves_of_every_rank_and_the_operator(
    main_job: dict[str, Any], prometheus: Prometheus
) -> None:
    series = prometheus.history('finetune_step{job_name="word-problems"}', 1200) or prometheus.history(
        "finetune_step", 1200
    )
    ranks = {json.loads(labels)["rank"] for labels in series}
    reconciles = prometheus.query("sum(finetune_operator_reconcile_total)")

    assert ranks == {"0", "1"}
    assert max(max(values) for values in series.values()) > 1
    assert prometheus.history("finetune_loss", 1200)
    assert reconciles
    assert reconciles[0].value > 0


def test_row_content_and_secrets_are_nowhere_to_be_seen(
    main_job: dict[str, Any], cluster: NodeCluster, s3_server: S3Server, prometheus: Prometheus, inputs: Inputs
) -> None:
    answers = [json.loads(row)["answer"] for row in inputs.rows.read_text().splitlines()[:200]]
    events = json.dumps(cluster.list("events", NAMESPACE))
    logs = cluster.kubectl(
        "logs", "--namespace", OPERATOR_NAMESPACE, "--selector", "app.kubernetes.io/name=finetune-operator", "--tail=-1"
    )
    metrics = json.dumps([sample.labels for sample in prometheus.query('{__name__=~"finetune.*"}')])
    for text in (json.dumps(main_job["status"]), events, logs, metrics):
        assert s3_server.keys.secret_key not in text
        assert not [answer for answer in answers if json.dumps(answer)[1:-1] in text]


def test_bad_rows_fail_in_the_inspection_and_are_named(
    cluster: NodeCluster, s3_server: S3Server, inputs: Inputs
) -> None:
    rows = inputs.rows.read_text().splitlines()[:100]
    rows[6] = '{"question": "an answer is missing"}'
    rows[41] = "this is not JSON"
    rows[60:80] = ['{"question": "?", "answer": ""}'] * 20
    s3_server.client().put_object(Bucket="data", Key="bad.jsonl", Body="\n".join(rows).encode())

    job = finish(cluster, submit(cluster, again("bad-rows", spec__dataset__uri="s3://data/bad.jsonl")), "Failed")

    assert condition(job, "Inspected")["reason"] == "InvalidData"
    assert "bad.jsonl:7" in job["status"]["message"]
    assert "bad.jsonl:42" in job["status"]["message"]
    assert not [pod for pod in cluster.list("pods", NAMESPACE) if pod["metadata"]["name"].startswith("bad-rows-1")]


def test_a_bucket_that_refuses_is_named_and_tried_again(cluster: NodeCluster, s3_server: S3Server) -> None:
    s3_server.create_bucket("closed")
    s3_server.refuse("closed")
    manifest = again("closed-bucket", spec__run__suspend=True)
    manifest["spec"]["output"]["uri"] = "s3://closed/model"
    name = submit(cluster, manifest)

    job = cluster.wait_for(
        "ftj",
        name,
        lambda job: condition(job, "Inspected").get("reason") == "StorageRefused",
        namespace=NAMESPACE,
        patience=120,
    )
    assert "s3://closed/model" in job["status"]["message"]
    assert job["status"]["state"] not in ("Complete", "Failed")

    s3_server.accept("closed")
    cluster.wait_for(
        "ftj", name, lambda job: condition(job, "Planned").get("status") == "True", namespace=NAMESPACE, patience=180
    )
    cluster.kubectl("delete", "ftj", name, "--namespace", NAMESPACE)


def test_the_operator_may_die_and_the_job_be_suspended_in_mid_training(
    interrupted: Story, undisturbed: Story, cluster: NodeCluster, s3_server: S3Server
) -> None:
    story, name = interrupted, "interrupted"

    assert [attempt["result"] for attempt in story.job["status"]["attempts"]] == ["Succeeded"]
    assert story.watch.steps_lost(1) == 0, "the suspended pods save on SIGTERM"
    # What follows in the message depends on whether the killed operator lived to write it: the next leader comes when the pods have stopped.
    assert any("attempt 1 is suspended; " in message for message in story.watch.messages())
    jobs = [
        child["metadata"]["name"]
        for child in cluster.list("jobs", NAMESPACE)
        if child["metadata"]["name"].startswith(f"{name}-")
    ]
    assert sorted(jobs) in ([f"{name}-1", f"{name}-publish"], [f"{name}-1", f"{name}-inspect", f"{name}-publish"])
    assert story.watch.losses() == undisturbed.watch.losses()
    assert adapter_digest(s3_server, name) == adapter_digest(s3_server, "word-problems")


def test_a_claim_keeps_the_model_for_all_pods_of_a_job(interrupted: Story, cluster: NodeCluster) -> None:
    assert len(downloads(cluster.directory / CLAIM)) == 1
    for pods in ("job/interrupted-1", "job/interrupted-publish"):
        assert "the model is in the cache" in cluster.kubectl("logs", pods, "--namespace", NAMESPACE), pods


def test_deleting_the_job_collects_everything_but_the_model(
    cluster: NodeCluster, s3_server: S3Server, interrupted: Story
) -> None:
    cluster.kubectl("delete", "ftj", "interrupted", "--namespace", NAMESPACE, "--wait")

    selector = "finetune-operator.dev/job=interrupted"
    cluster.wait_until_gone(selector, NAMESPACE, "jobs", "pods", "configmaps", "services")
    assert manifest_of(s3_server, "interrupted")["files"]


def test_a_job_of_the_same_name_starts_afresh_and_finds_the_place_taken(
    cluster: NodeCluster, interrupted: Story
) -> None:
    job = finish(cluster, submit(cluster, again("interrupted")), "Failed")

    assert condition(job, "Inspected")["reason"] == "OutputExists"
    assert "output.ifExists" in job["status"]["message"]


def test_a_stranger_with_a_child_name_is_not_touched(cluster: NodeCluster) -> None:
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "contested-1", "namespace": NAMESPACE},
        "data": {"mine": "yes"},
    }
    cluster.apply(stranger)
    name = submit(cluster, again("contested"))

    job = cluster.wait_for(
        "ftj",
        name,
        lambda job: condition(job, "Accepted").get("reason") == "ChildNotOurs",
        namespace=NAMESPACE,
        patience=120,
    )

    assert "contested-1" in job["status"]["message"]
    found = cluster.get("configmap", "contested-1", NAMESPACE)
    assert found is not None
    assert found["data"] == {"mine": "yes"}
    cluster.kubectl("delete", "ftj", name, "--namespace", NAMESPACE)


def test_the_operator_stays_small(cluster: NodeCluster) -> None:
    pods = cluster.list("pods", OPERATOR_NAMESPACE)
    for pod in pods:
        pid = cluster.container_pid(pod["metadata"]["name"], OPERATOR_NAMESPACE)
        status = Path(f"/proc/{pid}/status").read_text()
        resident = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
        assert resident < 120 * 1000, pod["metadata"]["name"]
