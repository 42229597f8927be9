"""What the pods report while they run, and what the job's status makes of it."""

from finetune_operator.api.progress import Metric
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.jobs.testing import reason, trained


def test_a_long_evaluation_after_the_training_is_told_and_not_taken_for_a_hang() -> None:
    world = trained()
    for rows in (0, 120, 240):
        world.advance(600)
        world.train_to(10, evaluation=f"{rows}/400")
        world.settle()
        assert reason(world, ConditionType.RUNNING) == ("True", Reason.EVALUATING)
        assert reason(world, ConditionType.STALLED) == ("False", Reason.PROGRESSING)
    assert world.status.message == "attempt 1 has trained, and evaluates the model: 240/400 rows"
    world.advance(901)
    world.settle()
    assert reason(world, ConditionType.STALLED) == ("True", Reason.NO_PROGRESS)


def test_the_status_carries_no_progress_since_that_has_another_writer() -> None:
    world = trained()
    assert world.status.progress is not None
    assert world.history[-1].status.progress is None


def test_rejected_checkpoints_degrade_the_job_for_good() -> None:
    world = trained()
    progress = world.status.progress
    assert progress is not None
    told = progress.model_copy(update={"metrics": [Metric(name="checkpoints_rejected", value="1")]})
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"progress": told})})
    world.settle()
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"progress": progress})})
    world.settle()
    assert reason(world, ConditionType.DEGRADED) == ("True", Reason.CHECKPOINT_REJECTED)
