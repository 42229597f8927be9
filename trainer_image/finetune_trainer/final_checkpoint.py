"""The checkpoint of a job's last step, which evaluation and publication begin with."""

from __future__ import annotations

import shutil

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.attempt import Place, Workplace
from finetune_trainer.checkpoint_reader import Wanted, find_checkpoint
from finetune_trainer.collective import Collective
from finetune_trainer.export import exported_files
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import open_writable


def final_checkpoint(attempt: AttemptFile, workplace: Workplace, wanted: Wanted = exported_files) -> Manifest:
    """Download the newest checkpoint that verifies to `workplace.resume`, its weights or what is `wanted` of it; it must be the last step's.

    Raises:
        TrainerFailure: There is none, or the newest is an earlier step's.
    """
    shutil.rmtree(workplace.resume, ignore_errors=True)
    found = find_checkpoint(
        attempt,
        Place(0, 1, 0, 1),
        open_writable(attempt.checkpoint_uri),
        Collective(1),
        workplace.resume,
        on_rejected=lambda event: print(f"{event.uri} is not used: {event.problem}", flush=True),
        wanted=wanted,
    )
    if found.manifest is None:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"there is no checkpoint that verifies at {attempt.checkpoint_uri}; the training must be run again",
        )
    if found.manifest.step < attempt.plan.total_steps and not found.manifest.is_final:
        raise TrainerFailure(
            ExitCode.NOT_FOUND,
            f"the newest checkpoint that verifies is of step {found.manifest.step} of {attempt.plan.total_steps}; the training must go on first",
        )
    return found.manifest
