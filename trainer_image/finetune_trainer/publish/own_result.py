"""The result of a user's own script: the files that it has left, as they are. Nothing is loaded or tried, and the card says so."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.trainer import RESULT, RESULT_FOLDER_VARIABLE
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.script_pods import share_out


def build_own_result(attempt: AttemptFile, checkpoint: Path, target: Path, manifest: Manifest) -> None:
    """Write everything that is published, but the manifest, to `target`; a README.md of the script's own stays.

    Raises:
        TrainerFailure: the script has left nothing.
    """
    gathered = checkpoint.with_name("gathered")
    shutil.rmtree(gathered, ignore_errors=True)
    share_out(checkpoint, gathered, 0, attempt.plan.pods)
    left = gathered / RESULT
    if not any(path.is_file() for path in left.rglob("*")):
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"the script has ended well and left no file in ${RESULT_FOLDER_VARIABLE}, which is what is published; let it save the model there",
        )
    shutil.copytree(left, target, copy_function=shutil.move)
    card = target / "README.md"
    if not card.exists():
        card.write_text(_card(attempt, manifest))


def _card(attempt: AttemptFile, manifest: Manifest) -> str:
    trainer = attempt.spec.trainer
    command = f"`{' '.join(trainer.command)}` in image `{trainer.image}`" if trainer else ""
    rows = [
        ("job", f"{attempt.namespace}/{attempt.name}"),
        ("uid", attempt.uid),
        ("attempt", manifest.attempt),
        ("checkpoint", f"{manifest.step}, the last one"),
        ("model it was given", f"`{attempt.inspection.model.uri}` {attempt.inspection.model.revision}".strip()),
        ("data it was given", f"`{attempt.inspection.dataset.uri}`, {attempt.inspection.dataset.rows} rows"),
    ]
    lines = [
        f"# {attempt.name}",
        "",
        f"Made by a training script of its user: {command}. Neither loaded nor tried by finetune-operator.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
    ]
    return "\n".join(lines)
