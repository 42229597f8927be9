"""Places on the machine of the one who writes a manifest: no pod can read them, and the job says so before anything is made."""

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.jobs.testing import World, make_job, reason


def test_a_file_on_this_machine_is_refused_in_a_cluster() -> None:
    world = World(make_job(dataset={"uri": "file:///rows.jsonl"}))
    desired = world.reconcile()
    assert desired.objects == ()
    assert reason(world, ConditionType.ACCEPTED) == ("False", Reason.INVALID_SPEC)
    assert "spec.dataset.uri" in (world.status.message or "")


def test_a_reward_model_on_this_machine_is_refused_in_a_cluster() -> None:
    rewards = [{"verifier": "answer-format"}, {"model": {"uri": "file:///judge"}}]
    world = World(make_job(objective="rloo", training={"rloo": {"rewards": rewards}}))
    assert world.reconcile().objects == ()
    assert "rewards.model.uri: file:// is for local runs" in (world.status.message or "")


def test_a_file_on_this_machine_is_named_by_its_place_in_the_list() -> None:
    world = World(make_job(dataset=None, datasets=[{"uri": "s3://data/a.jsonl"}, {"uri": "file:///b.jsonl"}]))
    assert world.reconcile().objects == ()
    (found,) = (each for each in world.status.conditions if each.type == ConditionType.ACCEPTED)
    assert (found.status, found.reason) == ("False", Reason.INVALID_SPEC)
    assert "spec.datasets[1].uri: file:// is for local runs" in (world.status.message or "")
