"""A job that starts from another job's checkpoint: the same losses, and plain words where that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionReport, ResumePoint
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.run_events import CheckpointEvent, ResumeEvent
from finetune_trainer.attempt import Place
from finetune_trainer.checkpoint_reader import Found, find_checkpoint
from finetune_trainer.checkpoint_writer import CheckpointWriter
from finetune_trainer.collective import Collective
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.resume_source import resume_point
from finetune_trainer.storage import open_writable
from finetune_trainer.testing import tiny_plan
from finetune_trainer.testing_ranks import RankServer

ONLY = Place(0, 1, 0, 1)
OTHER_UID = "5a5a5a5a-0000-4000-8000-000000000000"
STEPS = 6


def test_a_job_goes_on_from_another_jobs_checkpoint_with_its_losses_bit_for_bit(
    ranks: RankServer, make_attempt: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(strategy=Strategy.DDP, processes=2, micro_batch_size=2, total_steps=STEPS)
    lora = {"method": "lora", "lora": {"rank": 8, "dropout": 0.1}}
    first = make_attempt(plan, tuning=lora, checkpoint={"every": "2steps", "keep": 9})
    whole = ranks.run(first, tmp_path / "first")
    second = make_attempt(
        plan,
        output="second",
        tuning=lora,
        training={"maxSteps": STEPS},
        checkpoint={"resumeFrom": f"{first.checkpoint_uri}/step-00000002/1"},
    ).model_copy(update={"uid": OTHER_UID})
    resumed = ranks.run(second, tmp_path / "second")

    assert whole.statuses == resumed.statuses == (0, 0), resumed.log()
    assert [event.step for event in resumed.events if isinstance(event, ResumeEvent)] == [2]
    assert resumed.losses == {step: whole.losses[step] for step in range(3, STEPS + 1)}
    final = next(event for event in resumed.events if isinstance(event, CheckpointEvent))
    assert final.uri.startswith(second.checkpoint_uri)
    assert (len(list((tmp_path / "out").rglob("manifest.json")))) == STEPS / 2, (
        "the first job's checkpoints are untouched"
    )


def save(attempt: AttemptFile, step: int, scratch: Path) -> Path:
    """Write a checkpoint as an attempt does, and return its folder."""
    staged = scratch / f"staged-{attempt.uid[:4]}-{step}"
    staged.mkdir()
    (staged / "optimizer.pt").write_text(f"of step {step}")
    writer = CheckpointWriter(
        attempt, ONLY, open_writable(attempt.checkpoint_uri), Collective(1), start=1, verified=None
    )
    writer.begin(step, staged, 0.0)
    writer.close()
    return Path(attempt.checkpoint_uri.removeprefix("file://")) / f"step-{step:08d}" / "1"


@pytest.fixture
def source(attempt: AttemptFile, tmp_path: Path) -> AttemptFile:
    """A job with checkpoints of steps 2 and 4."""
    for step in (2, 4):
        save(attempt, step, tmp_path)
    return attempt


def successor(source: AttemptFile, uri: str = "", spec: dict[str, Any] | None = None, **more: Any) -> AttemptFile:
    """Another job that starts from the source's checkpoints (or `uri`), with the spec's parts of `spec` changed."""
    whole = source.spec.to_json_dict()
    for part, fields in {"checkpoint": {"resumeFrom": uri or source.checkpoint_uri}, **(spec or {})}.items():
        whole[part] = {**whole.get(part, {}), **fields}
    changed = {"uid": OTHER_UID, "checkpoint_uri": source.checkpoint_uri.replace("tiny-", "next-"), **more}
    return source.model_copy(update={"spec": type(source.spec).model_validate(whole), **changed})


def find(attempt: AttemptFile, target: Path) -> tuple[Found, list[CheckpointEvent]]:
    events: list[CheckpointEvent] = []
    storage = open_writable(attempt.checkpoint_uri)
    found = find_checkpoint(attempt, ONLY, storage, Collective(1), target, on_rejected=events.append)
    return found, events


def point_of(attempt: AttemptFile) -> ResumePoint:
    point = resume_point(attempt.spec, attempt.inspection.model)
    assert point is not None
    return point


def test_the_newest_checkpoint_of_the_named_job_is_inspected_and_used(source: AttemptFile, tmp_path: Path) -> None:
    job = successor(source)
    point = point_of(job)
    assert (point.step, point.job, point.strategy, point.processes) == (4, "default/tiny", "single", 1)

    found, _ = find(job, tmp_path / "resume")

    assert (found.uri, found.folder) == (point.uri, None)
    assert (tmp_path / "resume/optimizer.pt").read_text() == "of step 4"
    assert point_of(successor(source, source.spec.output.uri)) == point, (
        "the folder of a model is enough where one job has checkpoints there"
    )


def test_states_that_were_in_memory_do_not_go_on_from_local_disk(source: AttemptFile, tmp_path: Path) -> None:
    job = successor(source, plan=source.plan.model_copy(update={"offload": Offload.NVME}))
    with pytest.raises(TrainerFailure, match="were in memory and the plan has them on local disk"):
        find(job, tmp_path / "resume")


def test_the_jobs_own_checkpoint_comes_first(source: AttemptFile, tmp_path: Path) -> None:
    job = successor(source)
    save(job, 1, tmp_path)

    found, _ = find(job, tmp_path / "resume")

    assert found.folder is not None
    assert (found.folder.step, found.uri) == (1, f"{job.checkpoint_uri}/step-00000001/1")


def test_what_comes_after_the_inspection_is_not_used_and_a_damaged_one_is_told(
    source: AttemptFile, tmp_path: Path
) -> None:
    job = successor(source)
    inspection: InspectionReport = source.inspection.model_copy(update={"resume": point_of(job)})
    save(source, 6, tmp_path)
    path = Path(point_of(successor(source, f"{source.checkpoint_uri}/step-00000004/1")).uri.removeprefix("file://"))
    (path / "optimizer.pt").write_text("of step 5")

    found, events = find(job.model_copy(update={"inspection": inspection}), tmp_path / "resume")

    assert found.manifest is not None
    assert found.manifest.step == 2
    assert [(event.step, event.verified) for event in events] == [(4, False)]
    assert "another SHA-256" in events[0].problem


def other_model(job: AttemptFile) -> AttemptFile:
    facts = job.inspection.model
    files = tuple(file.model_copy(update={"size": file.size + 1}) for file in facts.files)
    changed = facts.model_copy(update={"uri": "file:///another", "files": files})
    return job.model_copy(update={"inspection": job.inspection.model_copy(update={"model": changed})})


def same(job: AttemptFile) -> AttemptFile:
    return job


@pytest.mark.parametrize(
    ("spec", "change", "said"),
    [
        ({}, other_model, "it was trained from file://.*/model and model.uri is file:///another"),
        ({"tuning": {"lora": {"rank": 8}}}, same, "it was trained with tuning.lora.rank: 16 and this job has 8"),
        ({"training": {"seed": 7}}, same, "it was trained with training.seed: 42 and this job has 7"),
        (
            {"training": {"maxSteps": 4}},
            same,
            "its step 4 is the last of this job's 4 or later; raise training.maxSteps",
        ),
    ],
)
def test_another_training_is_refused_by_the_inspection_and_by_the_attempt(
    spec: dict[str, Any], change: Callable[[AttemptFile], AttemptFile], said: str, source: AttemptFile, tmp_path: Path
) -> None:
    job = change(successor(source, spec=spec))
    steps = job.spec.training.max_steps or job.plan.total_steps
    job = job.model_copy(update={"plan": job.plan.model_copy(update={"total_steps": steps})})

    with pytest.raises(TrainerFailure, match=said) as inspected:
        resume_point(job.spec, job.inspection.model)
    with pytest.raises(TrainerFailure, match=said) as attempted:
        find(job, tmp_path / "resume")

    assert inspected.value.exit_code is attempted.value.exit_code is ExitCode.BAD_SPEC


def test_longer_training_and_defaults_that_are_written_out_are_the_same_training(source: AttemptFile) -> None:
    written_out = {"tuning": {"lora": {"rank": 16}}, "training": {"learningRate": 2e-4, "maxSteps": 500}}
    assert point_of(successor(source, spec=written_out)).step == 4


def test_a_plan_that_cannot_load_it_is_refused(source: AttemptFile, tmp_path: Path) -> None:
    job = successor(source, plan=tiny_plan(strategy=Strategy.ZERO2, processes=2))
    with pytest.raises(TrainerFailure, match="written with strategy single and the plan has zero2"):
        find(job, tmp_path / "resume")


def test_a_place_without_checkpoints_or_with_several_jobs_is_refused(source: AttemptFile, tmp_path: Path) -> None:
    with pytest.raises(TrainerFailure, match=r"checkpoint.resumeFrom: .*no checkpoint is there or below") as missing:
        resume_point(successor(source, f"file://{tmp_path}/nowhere").spec, source.inspection.model)
    assert missing.value.exit_code is ExitCode.NOT_FOUND
    save(successor(source), 2, tmp_path)
    with pytest.raises(
        TrainerFailure, match=r"has checkpoints of 2 jobs; name one: file://.*/next-0f1e2d3c, file://.*/tiny-0f1e2d3c"
    ):
        resume_point(successor(source, source.spec.output.uri).spec, source.inspection.model)


def test_checkpoints_that_are_not_whole_are_refused_before_a_gpu_is_taken(source: AttemptFile) -> None:
    for path in Path(source.checkpoint_uri.removeprefix("file://")).rglob("optimizer.pt"):
        path.write_text("half")
    with pytest.raises(
        TrainerFailure, match=r"none of the checkpoints .*step-00000004/1: 1 of its files are not there in full"
    ):
        point_of(successor(source))


def test_a_checkpoint_of_a_version_that_told_no_recipe_is_refused(source: AttemptFile) -> None:
    path = Path(source.checkpoint_uri.removeprefix("file://")) / "step-00000004/1/manifest.json"
    manifest = Manifest.model_validate_json(path.read_text()).model_copy(update={"recipe": None})
    path.write_text(manifest.model_dump_json(by_alias=True))
    with pytest.raises(TrainerFailure, match="does not say what it was trained by"):
        point_of(successor(source))
