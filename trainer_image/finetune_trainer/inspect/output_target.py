"""Looks at the place where the result will go, hours before it goes there: is another job's model in it, and may we write?"""

from __future__ import annotations

from typing import Final

from finetune_operator.api.inspection import InspectionRequest
from finetune_trainer.publish.destinations import check_destinations
from finetune_trainer.result_target import model_at
from finetune_trainer.storage import ObjectStorage, open_writable

PROBE_FILE: Final = ".finetune-probe"


def check_output(request: InspectionRequest) -> ObjectStorage:
    """Return the output folder after it has been found free (or ours, or to be overwritten) and writable."""
    output = request.spec.output
    storage = open_writable(output.uri)
    model_at(storage, output, request.uid)
    probe(storage)
    check_destinations(output, request.uid)
    if request.spec.checkpoint.uri is not None:
        probe(open_writable(request.spec.checkpoint.uri))
    return storage


def probe(storage: ObjectStorage) -> None:
    """Write and delete a tiny object; a refusal is the store's own error, with the place in it."""
    storage.put_small(PROBE_FILE, b"written and deleted by the inspection\n")
    storage.delete(PROBE_FILE)
