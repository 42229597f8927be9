"""What was measured after the training, kept beside the checkpoints, and whether that is enough for publication."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_operator.api.evaluated import EVALUATION_FILE, Evaluated, unmet
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage, open_writable
from finetune_trainer.storage_errors import StorageRefused


def read_evaluated(storage: ObjectStorage, uid: str) -> Evaluated | None:
    """Return what was measured of the job's checkpoint; None where there is nothing, or nothing that can be read."""
    try:
        found = Evaluated.model_validate_json(storage.read(EVALUATION_FILE))
        return found if found.uid == uid else None
    except StorageRefused as error:
        if not error.missing:
            raise
    except ValidationError as error:
        print(f"{EVALUATION_FILE} is unreadable: {error.error_count()} problems", flush=True)
    return None


def keep(storage: ObjectStorage, evaluated: Evaluated) -> None:
    """Write what was measured beside the checkpoints, and tell it."""
    storage.put_small(EVALUATION_FILE, evaluated.model_dump_json(by_alias=True).encode())
    for figure in evaluated.figures:
        base = "none" if figure.base is None else f"{figure.base:.4g}"
        print(f"{figure.name}: base {base}, tuned {figure.tuned:.4g}", flush=True)
    print(f"step {evaluated.step} was evaluated on {evaluated.rows} rows in {evaluated.seconds:.1f} s", flush=True)


def evaluation_of(attempt: AttemptFile) -> Evaluated | None:
    """Return the evaluation of the attempt's job; None where it has none."""
    if not attempt.spec.is_judged:
        return None
    return read_evaluated(open_writable(attempt.checkpoint_uri), attempt.uid)


def check_requirements(attempt: AttemptFile, evaluated: Evaluated | None) -> None:
    """Raise when the tuned model does not reach what `evaluation.require` asks: the gate before publication."""
    required = attempt.spec.evaluation.require
    problems = unmet(required.given, evaluated.figures if evaluated else ()) if required else []
    if problems:
        raise TrainerFailure(
            ExitCode.REQUIREMENT_NOT_MET,
            f"evaluation.require: {'; '.join(problems)}; the model is not published, its checkpoints stay at {attempt.checkpoint_uri}",
        )
