"""Why pods do not run is said in one place: status.message."""

from typing import Literal

import pytest

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.jobs.testing import (
    FixedPlanner,
    World,
    ended_pod,
    make_plan,
    make_pod,
    reason,
)
from finetune_operator.jobs.waiting import why_waiting

WAITS = {
    "scheduler": (
        {"phase": "Pending", "scheduled": False, "running": False, "unschedulable": "0/3 nodes: Insufficient gpu"},
        ("False", Reason.UNSCHEDULABLE),
        ("False", Reason.WAITING_FOR_PODS),
        "Insufficient gpu",
    ),
    "image": (
        {
            "phase": "Pending",
            "running": False,
            "waiting_reason": "ImagePullBackOff",
            "waiting_message": "no such image",
        },
        ("True", Reason.SCHEDULED),
        ("False", Reason.IMAGE_PULL_FAILED),
        "no such image",
    ),
    "secret": (
        {
            "phase": "Pending",
            "running": False,
            "waiting_reason": "CreateContainerConfigError",
            "waiting_message": 'secret "s3" not found',
        },
        ("True", Reason.SCHEDULED),
        ("False", Reason.CONTAINER_CANNOT_START),
        'secret "s3" not found',
    ),
    "creating": (
        {"phase": "Pending", "running": False},
        ("True", Reason.SCHEDULED),
        ("False", Reason.WAITING_FOR_PODS),
        "containers are being created",
    ),
}


@pytest.mark.parametrize("wait", WAITS)
def test_the_message_says_why_pods_do_not_run(wait: str) -> None:
    parts, scheduled, running, words = WAITS[wait]
    world = World()
    world.settle()
    world.inspect()
    world.settle()
    world.pods = [make_pod(**parts)]
    desired = world.settle()
    assert reason(world, ConditionType.PODS_SCHEDULED) == scheduled
    assert reason(world, ConditionType.RUNNING) == running
    assert words in (world.status.message or "")
    assert desired.requeue_after is not None


@pytest.mark.parametrize("component", ["inspect", "train", "publish"])
def test_pods_that_a_quota_refuses_are_explained(component: str) -> None:
    world = World(planner=FixedPlanner(make_plan(pods=2)))
    world.settle()
    if component != "inspect":
        world.inspect()
        world.settle()
    if component == "publish":
        world.finish("tune-1")
        world.settle()
    child = {"inspect": "tune-inspect", "train": "tune-1", "publish": "tune-publish"}[component]
    world.pods = [make_pod()] if component == "train" else []
    world.refusals = {child: "exceeded quota: zero"}
    world.settle()
    assert "cannot be created: exceeded quota: zero" in (world.status.message or "")
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)


@pytest.mark.parametrize("component", ["inspect", "publish"])
def test_a_pod_that_is_done_is_not_said_to_be_missing(component: Literal["inspect", "publish"]) -> None:
    world = World()
    world.settle()
    if component == "publish":
        world.inspect()
        world.settle()
        world.finish("tune-1", ended_pod(0))
        world.settle()
    world.pods = [make_pod(component, None, phase="Succeeded", running=False, exit_code=0)]
    world.settle()
    assert "not created" not in (world.status.message or "")


def test_ranks_that_wait_for_another_pod_are_in_rendezvous() -> None:
    world = World(planner=FixedPlanner(make_plan(pods=2)))
    world.settle()
    world.inspect()
    world.settle()
    world.pods = [make_pod(), make_pod(index=1, phase="Pending", running=False)]
    world.settle()
    assert reason(world, ConditionType.RUNNING) == ("False", Reason.RENDEZVOUS)


def test_a_folder_of_the_node_that_the_namespace_forbids_is_told_with_what_to_do() -> None:
    volume = '(volume "model-cache" uses restricted volume type "hostPath")'
    said = f'forbidden: violates PodSecurity "restricted:latest": restricted volume types {volume}'
    wait = why_waiting((), 2, said)
    assert wait is not None
    assert wait.needs_people
    assert wait.message.startswith(f"2 of 2 pods cannot be created: {said}; model.cache.node needs a namespace")
