"""Looks at the place where the result will go, hours before it goes there: is another job's model in it, and may we write?"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import InspectionRequest
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.reasons import Reason
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import ObjectStorage, open_writable

PROBE_FILE: Final = ".finetune-probe"


def check_output(request: InspectionRequest) -> ObjectStorage:
    """Return the output folder after it has been found free (or ours, or to be overwritten) and writable."""
    output = request.spec.output
    storage = open_writable(output.uri)
    if output.if_exists == "fail" and storage.exists(MANIFEST_FILE):
        owner = _owner(storage.read(MANIFEST_FILE))
        if owner is None or owner.uid != request.uid:
            whose = f"the model of job {owner.namespace}/{owner.job}" if owner else "a manifest.json that is not ours"
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"output.uri {output.uri} holds {whose}; choose another output.uri, or set output.ifExists: overwrite",
                Reason.OUTPUT_EXISTS,
            )
    probe(storage)
    if request.spec.checkpoint.uri is not None:
        probe(open_writable(request.spec.checkpoint.uri))
    return storage


def probe(storage: ObjectStorage) -> None:
    """Write and delete a tiny object; a refusal is the store's own error, with the place in it."""
    storage.put_small(PROBE_FILE, b"written and deleted by the inspection\n")
    storage.delete(PROBE_FILE)


def _owner(content: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError:
        return None
