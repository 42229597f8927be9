"""The pods of a user's own script: its container takes what was planned, and ours beside it restores and saves its folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from finetune_operator.api.constants import PLAN_DIRECTORY, PLAN_PATH, TOKEN_PATH, WORK_DIRECTORY, progress_path
from finetune_operator.api.plan import GIB, AttemptFile
from finetune_operator.api.trainer import AUTHORITY_FILE, Trainer, progress_environment, script_environment
from finetune_operator.jobs.decisions import RenderSettings
from finetune_operator.jobs.pods import PodShape, mebibytes, millicores

SCRIPT_CONTAINER: Final = "script"
KEEPER_MEMORY: Final = GIB
"""For our container, which streams files to the bucket and holds no model."""


def keeper_resources() -> dict[str, Any]:
    """Return what our container and the publish pod of such a job ask for."""
    memory = mebibytes(KEEPER_MEMORY)
    return {"requests": {"cpu": millicores(250), "memory": memory}, "limits": {"memory": memory}}


def with_script(shape: PodShape, trainer: Trainer, file: AttemptFile, settings: RenderSettings) -> PodShape:
    """Return the shape of a training pod in which `trainer` runs instead of our own; what was planned is the script's."""
    script = replace(
        shape,
        name=SCRIPT_CONTAINER,
        image=trainer.image,
        command=trainer.arguments,
        arguments=(),
        ports=(),
        writes_anywhere=True,
        environment={**shape.environment, **_environment(file)},
    )
    return replace(
        shape,
        image=settings.inspect_image,
        resources=keeper_resources(),
        # The size of what a script leaves is not known: a limit would evict it in its last save.
        work_bytes=0,
        environment={},
        ports=(),
        annotations={},
        beside=(script,),
    )


def _environment(file: AttemptFile) -> dict[str, str]:
    plan = file.plan
    told = script_environment(
        WORK_DIRECTORY,
        PLAN_PATH,
        pods=plan.pods,
        processes_per_pod=plan.processes_per_pod,
        host=file.rendezvous_host,
        port=file.rendezvous_port,
    )
    if file.progress is None:
        return told
    url = file.progress.url.rstrip("/") + progress_path(file.namespace, file.name, "progress")
    return {**told, **progress_environment(url, f"{PLAN_DIRECTORY}/{AUTHORITY_FILE}", TOKEN_PATH)}
