"""`spec.model.cache` in the pods of a job, in its disk requests, and where an installation or a namespace has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.inspection import inspection_key
from finetune_operator.api.plan import AttemptFile, checkpoint_uri
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.jobs.children import attempt_job, inspect_job, publish_job
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.testing import SETTINGS, World, make_job, make_plan, make_pod, make_report, reason

NODES = replace(SETTINGS, node_cache_path="/var/lib/finetune-operator/models")
CLAIM = {"persistentVolumeClaim": "models"}
NODE = {"node": True}
MISSING_CLAIM = (
    '0/3 nodes are available: persistentvolumeclaim "models" not found. not found, preemption: 0/3 nodes are available: '
    "3 Preemption is not helpful for scheduling."
)


def pods(cache: dict[str, Any] | None, settings: RenderSettings) -> list[dict[str, Any]]:
    """Return the specs of the training and the publish pod."""
    model: dict[str, Any] = {"uri": "hf://org/tiny"}
    job = make_job(model=model if cache is None else {**model, "cache": cache})
    meta = job.metadata
    file = AttemptFile(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        attempt=1,
        spec=job.spec,
        inspection=make_report(job),
        plan=make_plan(),
        checkpoint_uri=checkpoint_uri(job.spec, meta.name, meta.uid),
    )
    made = attempt_job(job, file, settings), publish_job(job, file, settings)
    return [body["spec"]["template"]["spec"] for body in made]


def named(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in entries}


def test_training_and_publication_mount_the_claim_and_inspection_does_not() -> None:
    for pod in pods(CLAIM, SETTINGS):
        (container,) = pod["containers"]
        assert named(pod["volumes"])["model-cache"]["persistentVolumeClaim"] == {"claimName": "models"}
        assert named(container["volumeMounts"])["model-cache"] == {"name": "model-cache", "mountPath": "/model-cache"}
        assert named(container["env"])["FINETUNE_MODEL_CACHE"]["value"] == "/model-cache"
    job = make_job(model={"uri": "hf://org/tiny", "cache": CLAIM})
    assert "model-cache" not in str(inspect_job(job, SETTINGS)["spec"])


def test_a_folder_of_the_node_is_shared_by_one_namespace_and_never_made_by_the_kubelet() -> None:
    for pod in pods(NODE, NODES):
        folder = {"path": "/var/lib/finetune-operator/models", "type": "Directory"}
        assert named(pod["volumes"])["model-cache"]["hostPath"] == folder
        assert named(pod["containers"][0]["volumeMounts"])["model-cache"]["subPath"] == "team"


def test_without_a_cache_there_is_no_volume_and_no_variable() -> None:
    for pod in pods(None, NODES):
        assert "model-cache" not in named(pod["volumes"])
        assert "FINETUNE_MODEL_CACHE" not in named(pod["containers"][0]["env"])


def test_a_publication_asks_for_no_disk_for_a_model_that_a_cache_holds() -> None:
    """The report's model has 2,000,000 bytes."""
    with_cache, without = (pods(cache, SETTINGS)[1]["containers"][0]["resources"] for cache in (CLAIM, None))
    assert (with_cache["requests"]["ephemeral-storage"], without["requests"]["ephemeral-storage"]) == (
        "2050Mi",
        "2052Mi",
    )
    assert with_cache["limits"] == without["limits"]


def test_a_job_that_wants_a_folder_of_nodes_is_refused_where_the_installation_allows_none() -> None:
    world = World(make_job(model={"uri": "hf://org/tiny", "cache": NODE}))
    world.settle()
    assert reason(world, ConditionType.ACCEPTED) == ("False", Reason.INVALID_SPEC)
    assert "modelCache.nodePath" in (world.status.message or "")
    assert not world.children


def test_a_claim_that_is_not_there_is_said_with_what_to_do() -> None:
    world = World(make_job(model={"uri": "hf://org/tiny", "cache": CLAIM}))
    world.settle()
    world.inspect()
    world.settle()
    world.pods = [make_pod(phase="Pending", scheduled=False, running=False, unschedulable=MISSING_CLAIM)]
    world.settle()
    assert reason(world, ConditionType.PODS_SCHEDULED) == ("False", Reason.UNSCHEDULABLE)
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)
    message = world.status.message or ""
    assert 'persistentvolumeclaim "models" not found' in message
    assert "create that claim" in message


def test_containers_that_are_late_may_lack_the_volume() -> None:
    world = World(make_job(model={"uri": "hf://org/tiny", "cache": CLAIM}))
    world.settle()
    world.inspect()
    world.settle()
    world.pods = [make_pod(phase="Pending", running=False, created=world.now)]
    world.settle()
    assert "cannot be mounted" not in (world.status.message or "")
    world.advance(11)
    world.settle()
    assert "the volume of model.cache cannot be mounted (kubectl describe pod tune-1-0-abcde" in (
        world.status.message or ""
    )


@pytest.mark.parametrize("cache", [CLAIM, NODE])
def test_jobs_that_differ_in_their_cache_share_an_inspection(cache: dict[str, Any]) -> None:
    plain, cached = make_job().spec, make_job(model={"uri": "hf://org/tiny", "cache": cache}).spec
    assert inspection_key("team", plain) == inspection_key("team", cached)
