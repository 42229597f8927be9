"""The places beside output.uri that the result goes to: asked by the inspection whether they take it, and sent to by publish, any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import FileEntry, Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Output
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.publish.hub import HubRepository
from finetune_trainer.publish.oci import JOB_ANNOTATION, UID_ANNOTATION, OciRepository


def check_destinations(output: Output, uid: str) -> None:
    """Raise when a place does not take what this job will send: no access, or another job's model is there."""
    if output.oci is not None:
        repository = OciRepository(output.oci)
        repository.check_writable()
        _refuse_others(output, "output.oci", output.oci, repository.owner(), uid)
    if output.hub is not None:
        hub = HubRepository(output.hub)
        hub.check_writable()
        _refuse_others(output, "output.hub", output.hub, hub.owner(), uid)


def send(attempt: AttemptFile, folder: Path, files: Sequence[FileEntry], checkpoint: Manifest) -> tuple[str, ...]:
    """Send the files of a folder everywhere, and return where each place has them, with the hash of what is there."""
    output = attempt.spec.output
    sent: list[str] = []
    if output.oci is not None:
        repository = OciRepository(output.oci)
        _refuse_others(output, "output.oci", output.oci, repository.owner(), attempt.uid)
        notes = {
            JOB_ANNOTATION: f"{attempt.namespace}/{attempt.name}",
            UID_ANNOTATION: attempt.uid,
            "dev.finetune-operator.step": str(checkpoint.step),
            "dev.finetune-operator.base-model": attempt.inspection.model.uri,
            "dev.finetune-operator.base-revision": attempt.inspection.model.revision,
        }
        digest = repository.push(folder, files, _model_config(attempt), notes)
        sent.append(f"oci://{output.oci}@{digest}")
        print(f"pushed to {sent[-1]}", flush=True)
    if output.hub is not None:
        hub = HubRepository(output.hub)
        _refuse_others(output, "output.hub", output.hub, hub.owner(), attempt.uid)
        message = f"{attempt.name}: step {checkpoint.step} of job {attempt.namespace}/{attempt.name}"
        revision = f" at {attempt.inspection.model.revision}" if attempt.inspection.model.revision else ""
        description = f"Fine-tuned from {attempt.inspection.model.uri}{revision} (job uid {attempt.uid}, attempt {checkpoint.attempt})."
        commit = hub.push(folder, [entry.name for entry in files], message, description)
        sent.append(f"hf://{output.hub}@{commit}")
        print(f"committed as {sent[-1]}", flush=True)
    return tuple(sent)


def _refuse_others(output: Output, field: str, place: str, owner: str | None, uid: str) -> None:
    if owner in (None, uid) or output.if_exists == "overwrite":
        return
    whose = f"the model of the job with uid {owner}" if owner else "something that no job has put there"
    raise TrainerFailure(
        ExitCode.BAD_SPEC,
        f"{field} {place} holds {whose}; choose another place, or set output.ifExists: overwrite",
        Reason.OUTPUT_EXISTS,
    )


def _model_config(attempt: AttemptFile) -> dict[str, Any]:
    """Return ModelPack's description of the model (docs/config.md of the specification); nothing in it changes from one try to the next."""
    facts = attempt.inspection.model
    return {
        "descriptor": {
            "name": attempt.name,
            "title": f"{attempt.name}, fine-tuned from {attempt.inspection.model.uri.removeprefix('hf://')}",
            "revision": facts.revision,
        },
        "config": {
            "architecture": "transformer",
            "format": "safetensors",
            "paramSize": str(facts.parameters),
            "precision": "float32" if attempt.spec.training.precision == "fp32" else "bfloat16",
        },
    }
