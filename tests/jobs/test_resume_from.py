"""What a job shows of the other job's checkpoint that it starts from."""

from __future__ import annotations

from finetune_operator.api.inspection import ResumePoint, inspection_key
from finetune_operator.api.reasons import ConditionType
from finetune_operator.api.status import ResumeStatus
from finetune_operator.jobs.testing import World, make_job


def test_the_checkpoint_of_another_job_that_a_job_starts_from_stands_in_its_status() -> None:
    point = ResumePoint(uri="s3://a/step-00000004/1", job="team/first", step=4, strategy="fsdp", processes=2)
    world = World(job=make_job(checkpoint={"resumeFrom": "s3://a"}))
    world.settle()
    world.inspect()
    assert world.report is not None
    world.report = world.report.model_copy(update={"resume": point})
    world.settle()
    assert world.status.inspection is not None
    assert world.status.inspection.resume == ResumeStatus(uri=point.uri, job="team/first", step=4)
    inspected = world.status.condition(ConditionType.INSPECTED)
    assert inspected is not None
    assert inspected.message.endswith("goes on after step 4 of s3://a/step-00000004/1")


def test_a_report_is_used_again_only_by_jobs_that_start_from_the_same_checkpoint_in_the_same_way() -> None:
    def key(**spec: object) -> str:
        return inspection_key("team", make_job(**spec).spec)

    here = {"resumeFrom": "s3://a"}
    keys = [
        key(),
        key(checkpoint=here),
        key(checkpoint={"resumeFrom": "s3://b"}),
        key(checkpoint=here, training={"seed": 7}),
    ]
    assert len(set(keys)) == 4
    assert key(training={"seed": 7}) == keys[0]
