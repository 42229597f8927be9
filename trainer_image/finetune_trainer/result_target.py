"""The place where the result goes: whose model is there, and may it be replaced?

Asked by the inspection, before a GPU is taken; again when an attempt starts, since a report can be a day old and an equal job's; and by publish.
"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Output
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage
from finetune_trainer.storage_errors import AlreadyExists

CLAIM_FILE: Final = ".finetune-publishing"


def model_at(storage: ObjectStorage, output: Output, uid: str) -> Manifest | None:
    """Return the manifest at `output`: of this job's model, or of one that may be overwritten; None when none can be read.

    Raises:
        TrainerFailure: OutputExists, when it is not the model of the job with `uid` and output.ifExists is `fail`.
    """
    if not storage.exists(MANIFEST_FILE):
        return None
    manifest = _read(storage)
    if output.if_exists == "fail" and (manifest is None or manifest.uid != uid):
        raise output_exists(output, manifest)
    return manifest


def claim(storage: ObjectStorage, output: Output, namespace: str, job: str, uid: str) -> None:
    """Reserve the place before the first file is uploaded: two jobs that end at once would overwrite each other's files.

    Raises:
        TrainerFailure: OutputExists, when another job is publishing there, or has stopped in the midst of it.
    """
    ours = f"{namespace}/{job} {uid}"
    if output.if_exists == "overwrite":
        storage.put_small(CLAIM_FILE, ours.encode())
        return
    try:
        storage.put_small(CLAIM_FILE, ours.encode(), create_only=True)
    except AlreadyExists:
        theirs = storage.read(CLAIM_FILE).decode(errors="replace")
        if theirs != ours:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"job {theirs.split()[0]} is publishing to output.uri {output.uri}, or has stopped in the midst of it; choose another "
                f"output.uri, set output.ifExists: overwrite, or delete {CLAIM_FILE} there when that job is gone",
                Reason.OUTPUT_EXISTS,
            ) from None
    try:
        # Another job may have published and released the place between our first look and our claim.
        model_at(storage, output, uid)
    except TrainerFailure:
        release(storage)
        raise


def release(storage: ObjectStorage) -> None:
    """Give the reservation up: from here on the manifest tells whose the place is."""
    storage.delete(CLAIM_FILE)


def output_exists(output: Output, manifest: Manifest | None) -> TrainerFailure:
    """Return the failure that names what is in the way."""
    whose = f"the model of job {manifest.namespace}/{manifest.job}" if manifest else "a manifest.json that is not ours"
    return TrainerFailure(
        ExitCode.BAD_SPEC,
        f"output.uri {output.uri} holds {whose}; choose another output.uri, or set output.ifExists: overwrite",
        Reason.OUTPUT_EXISTS,
    )


def _read(storage: ObjectStorage) -> Manifest | None:
    try:
        return Manifest.model_validate_json(storage.read(MANIFEST_FILE))
    except ValidationError:
        return None
