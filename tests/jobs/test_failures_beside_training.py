"""How inspections and publications that fail are told, and what follows."""

import pytest

from finetune_operator.api.evaluated import Evaluated, Figure
from finetune_operator.api.reasons import ConditionType, JobState, Reason
from finetune_operator.jobs.testing import World, ended_pod, reason, running

INSPECTION_ENDS = {
    "bad rows": (41, Reason.INVALID_DATA, "rows.jsonl:7: no messages"),
    "bad spec": (40, Reason.INVALID_SPEC, "dataset.format is alpaca"),
    "taken output": (40, Reason.OUTPUT_EXISTS, "another job's model"),
}


@pytest.mark.parametrize("case", INSPECTION_ENDS)
def test_what_the_user_must_mend_ends_the_inspection(case: str) -> None:
    code, why, message = INSPECTION_ENDS[case]
    world = World()
    world.settle()
    pod = ended_pod(code, reason=why, message=message, component="inspect", attempt=None)
    world.fail("tune-inspect", pod)
    world.settle()
    assert reason(world, ConditionType.INSPECTED) == ("False", why)
    assert reason(world, ConditionType.FAILED) == ("True", why)
    assert message in (world.status.message or "")
    assert list(world.children) == ["tune-inspect"]


def test_a_report_with_too_many_unusable_rows_ends_the_job() -> None:
    world = World()
    world.settle()
    problem = {"file": "s3://data/rows.jsonl", "line": 3, "reason": "not JSON"}
    world.inspect(rows=50, dropped=50, problems=(problem,))
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.INVALID_DATA)
    assert "s3://data/rows.jsonl:3: not JSON" in (world.status.message or "")


REFUSALS = {43: Reason.STORAGE_REFUSED, 44: Reason.STORAGE_UNAVAILABLE}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_bucket_that_refuses_is_told_and_tried_again_without_end(code: int) -> None:
    world = World()
    world.settle()
    world.pods = [ended_pod(code, message="s3://data refuses.", component="inspect", attempt=None)]
    desired = world.settle()
    assert reason(world, ConditionType.INSPECTED) == ("False", REFUSALS[code])
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)
    assert "s3://data refuses." in (world.status.message or "")
    assert desired.requeue_after is not None

    world.fail("tune-inspect", *world.pods, kind="Failed", message="reached the backoff limit")
    desired = world.settle()
    assert desired.requeue_after == 60.0
    world.advance(60)
    world.settle()
    assert world.children["tune-inspect"].conditions == ()
    assert world.children["tune-inspect"].created == world.now


def trained() -> World:
    world = running(pods=1)
    world.finish("tune-1", ended_pod(0, peak=2**30))
    world.settle()
    return world


def publish_pod(code: int, **parts: object):
    return ended_pod(code, component="publish", attempt=1, name="tune-publish-x", **parts)


def test_a_failed_publication_is_told_and_repeated_ever_more_slowly() -> None:
    world = trained()
    pauses = []
    for _ in range(4):
        world.fail("tune-publish", publish_pod(43, message="403 from the bucket."), kind="Failed")
        desired = world.settle()
        assert reason(world, ConditionType.PUBLISHED) == ("False", Reason.PUBLICATION_FAILED)
        assert reason(world, ConditionType.FAILED)[0] == "False"
        assert desired.requeue_after is not None
        pauses.append(desired.requeue_after)
        world.advance(desired.requeue_after)
        world.settle()
        assert world.children["tune-publish"].conditions == ()
    assert pauses == [60.0, 60.0, 120.0, 240.0]
    world.finish("tune-publish")
    world.settle()
    assert world.status.state is JobState.COMPLETE


def test_a_model_that_misses_a_requirement_ends_the_job_with_its_figures() -> None:
    world = trained()
    evaluated = Evaluated(
        uid="u", step=20, rows=9, seconds=1.0, figures=(Figure(name="rouge1", base=0.12346, tuned=0.3),)
    )
    said = "evaluation.require: rouge1 is 0.3, >=0.4 is required; the model is not published."
    pod = publish_pod(52, reason=Reason.REQUIREMENT_NOT_MET, message=said, evaluation=evaluated)
    world.fail("tune-publish", pod)
    world.settle()
    assert reason(world, ConditionType.PUBLISHED) == ("False", Reason.REQUIREMENT_NOT_MET)
    assert reason(world, ConditionType.FAILED) == ("True", Reason.REQUIREMENT_NOT_MET)
    assert said in (world.status.message or "")
    assert world.status.attempts[-1].result == "Succeeded"
    assert world.status.evaluation is not None
    (figure,) = world.status.evaluation.figures
    assert (figure.name, figure.base, figure.tuned) == ("rouge1", "0.1235", "0.3")


def test_an_output_that_is_taken_ends_the_job_and_keeps_the_checkpoints() -> None:
    world = trained()
    world.fail("tune-publish", publish_pod(40, reason=Reason.OUTPUT_EXISTS, message="another job's model is there."))
    world.settle()
    assert reason(world, ConditionType.FAILED) == ("True", Reason.OUTPUT_EXISTS)
    assert "checkpoints stay" in (world.status.message or "")
