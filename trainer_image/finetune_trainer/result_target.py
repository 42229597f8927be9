"""The place where the result goes: whose model is there, and may it be replaced?

Asked by the inspection, before a GPU is taken; again when an attempt starts, since a report can be a day old and an equal job's; and by publish.
"""

from __future__ import annotations

from pydantic import ValidationError

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Output
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage


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
