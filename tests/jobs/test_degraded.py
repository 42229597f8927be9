"""What the condition Degraded says of slow ranks, beside damaged checkpoints."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import Condition, Metric
from finetune_operator.jobs.testing import World, make_pod


def trained() -> World:
    world = World()
    world.settle()
    world.inspect()
    world.settle()
    world.train_to(5)
    return world


def report(world: World, **metrics: str) -> Condition:
    """Let the trainer report these metrics, and return what the job then says."""
    progress = world.status.progress
    assert progress is not None
    told = progress.model_copy(update={"metrics": [Metric(name=name, value=value) for name, value in metrics.items()]})
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"progress": told})})
    world.settle()
    found = world.status.condition(ConditionType.DEGRADED)
    assert found is not None
    return found


SLOW = {"slow_rank": "1", "slow_rank_ratio": "1.93", "slow_rank_share": "0.41"}


def test_a_slow_rank_is_told_with_its_pod_and_node_and_forgotten_when_it_is_fast_again() -> None:
    world = trained()
    processes = world.files[1].plan.processes_per_pod
    pod = make_pod(attempt=1, index=1 // processes, phase="Running", running=True, scheduled=True)
    world.pods = [replace(pod, node="gpu-7")]

    slow = report(world, **SLOW)
    events = [event for desired in world.history for event in desired.events if event.reason is Reason.SLOW_RANK]
    fast = report(world, step="9")

    assert (slow.status, slow.reason) == ("True", Reason.SLOW_RANK)
    assert slow.message == (
        f"rank 1 (pod {pod.name} on node gpu-7) takes 1.9 times as long as its peers, which wait for it in 41% of the time"
    )
    assert [(event.type, event.message) for event in events] == [("Warning", slow.message)]
    assert (fast.status, fast.reason) == ("False", Reason.HEALTHY)


def test_small_changes_of_the_numbers_and_pods_that_are_not_looked_at_are_no_news() -> None:
    world = trained()
    world.pods = [replace(make_pod(attempt=1, index=0, phase="Running", running=True, scheduled=True), node="gpu-7")]
    first = report(world, **{**SLOW, "slow_rank": "0"})
    world.pods = []

    assert report(world, **{**SLOW, "slow_rank": "0", "slow_rank_ratio": "2.0"}).message == first.message
    elsewhere = report(world, **SLOW).message
    assert elsewhere.startswith("rank 1 takes 1.9 times")
    assert report(world, **{**SLOW, "slow_rank_share": "0.5"}).message == elsewhere


def test_a_slow_rank_does_not_hide_a_damaged_checkpoint() -> None:
    world = trained()

    both = report(world, checkpoints_rejected="1", **SLOW)
    after = report(world, step="9")

    assert both.reason is after.reason is Reason.CHECKPOINT_REJECTED
    assert "passed over for older ones: 1" in both.message
    assert "rank 1 takes 1.9 times as long" in both.message
    assert "rank 1" not in after.message


def test_what_is_no_number_is_not_told() -> None:
    assert report(trained(), slow_rank="1", slow_rank_ratio="a row").status == "False"


def test_trackers_that_fail_are_told_with_an_event_beside_what_else_is_wrong_until_they_work_again() -> None:
    world = trained()
    failing = report(world, trackers_failing="mlflow, wandb")
    events = [event for desired in world.history for event in desired.events if event.reason is Reason.TRACKER_FAILED]
    beside = report(world, trackers_failing="mlflow", checkpoints_rejected="1", **SLOW)
    well = report(world, step="9")

    assert (failing.status, failing.reason) == ("True", Reason.TRACKER_FAILED)
    assert failing.message.startswith("trackers that do not work, without which the training goes on: mlflow, wandb;")
    assert [(event.type, event.message) for event in events] == [("Warning", failing.message)]
    assert beside.reason is Reason.CHECKPOINT_REJECTED
    assert [part.split()[0] for part in beside.message.split(". And ")] == ["checkpoints", "trackers", "rank"]
    # Damaged checkpoints stay true of the job.
    assert (well.reason, well.message.count(". And ")) == (Reason.CHECKPOINT_REJECTED, 0)
