"""The checkpoints of another job that `checkpoint.resumeFrom` names, and whether this job can go on from them.

The inspection looks here before a GPU is taken: at names, sizes and what a manifest tells. Every byte is hashed by the attempt that downloads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.compatibility import Offload, Strategy, resume_obstacle
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InputFile, ModelFacts, ResumePoint
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import Plan
from finetune_operator.api.recipe import Recipe, recipe_obstacle, recipe_of
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.checkpoint_location import Located, locate
from finetune_trainer.failures import TrainerFailure

FIELD = "checkpoint.resumeFrom"


def source_checkpoints(uri: str) -> tuple[Located, ...]:
    """Return the committed checkpoints of one job at or below `uri`, newest first.

    Raises:
        TrainerFailure: there is none, or there are several jobs'.
        StorageError: the store refuses, or does not answer.
    """
    try:
        found = locate(uri)
    except TrainerFailure as error:
        raise TrainerFailure(error.exit_code, f"{FIELD}: {error}") from error
    shelves = sorted({each.shelf for each in found})
    if len(shelves) > 1:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"{FIELD}: {uri} has checkpoints of {len(shelves)} jobs; name one: {', '.join(shelves[:5])}",
        )
    committed = tuple(each for each in found if each.is_committed)
    if not committed:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"{FIELD}: {uri} has no finished checkpoint: no manifest is there, only uploads that were cut off",
        )
    return committed


def resume_point(
    spec: FineTuneJobSpec, model: ModelFacts, reward_files: Sequence[InputFile] = ()
) -> ResumePoint | None:
    """Return the checkpoint that the job will start from, None where the spec names none.

    Raises:
        TrainerFailure: it names one that is not there, not complete, or another training's.
        StorageError: the store refuses, or does not answer.
    """
    if spec.checkpoint.resume_from is None:
        return None
    problems = []
    for each in source_checkpoints(spec.checkpoint.resume_from):
        manifest = each.manifest()
        problem = manifest if isinstance(manifest, str) else _incomplete(each, manifest)
        if isinstance(manifest, str) or problem is not None:
            problems.append(f"{each.name.name}: {problem}")
            continue
        if (obstacle := obstacle_of(manifest, spec, recipe_of(spec, model, reward_files))) is not None:
            raise TrainerFailure(ExitCode.BAD_SPEC, f"{FIELD}: {each.storage.uri} cannot be used: {obstacle}")
        return ResumePoint(
            uri=each.storage.uri,
            job=f"{manifest.namespace}/{manifest.job}",
            step=manifest.step,
            strategy=manifest.strategy,
            processes=manifest.world_size,
            offload=manifest.offload,
        )
    raise TrainerFailure(
        ExitCode.BAD_SPEC,
        f"{FIELD}: none of the checkpoints at {spec.checkpoint.resume_from} can be used ({'; '.join(problems[:3])}); name another",
    )


def obstacle_of(manifest: Manifest, spec: FineTuneJobSpec, recipe: Recipe, plan: Plan | None = None) -> str | None:
    """Return why a job with this recipe cannot go on from another's checkpoint, None when it can; by a `plan`, where there is one already."""
    if manifest.kind != "checkpoint":
        return "it is a published model, not a checkpoint"
    if manifest.recipe is None:
        return "its manifest does not say what it was trained by"
    if (obstacle := recipe_obstacle(manifest.recipe, recipe)) is not None:
        return f"{obstacle}; set it so, or start without {FIELD}"
    last = spec.training.max_steps if plan is None else plan.total_steps
    if last is not None and manifest.step >= last:
        return f"its step {manifest.step} is the last of this job's {last} or later; raise training.maxSteps or training.epochs"
    if plan is None:
        return None
    return obstacle_for(manifest, plan)


def obstacle_for(manifest: Manifest, plan: Plan) -> str | None:
    """Return why a plan cannot go on from a checkpoint, whoever wrote it, None when it can."""
    return resume_obstacle(
        Strategy(manifest.strategy),
        manifest.world_size,
        plan.strategy,
        plan.processes,
        was_swapped=manifest.offload == Offload.NVME,
        is_swapped=plan.offload is Offload.NVME,
    )


def _incomplete(found: Located, manifest: Manifest) -> str | None:
    stored = {file.name: file.size for file in found.storage.list()}
    wrong = [entry.name for entry in manifest.files if stored.get(entry.name) != entry.size]
    return f"{len(wrong)} of its files are not there in full, such as {wrong[0]}" if wrong else None
