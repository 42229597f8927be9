"""Whether a model is the result of another job, and what its manifest tells of that: what a chain of jobs carries on."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.inspection import Lineage
from finetune_operator.api.manifest import Manifest
from finetune_trainer.storage import Storage


def result_manifest(storage: Storage) -> Manifest | None:
    """Return the manifest of a result; None where there is none, or a file of that name that is not ours."""
    if not storage.exists(MANIFEST_FILE):
        return None
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST_FILE))
    except ValidationError:
        return None
    return manifest if manifest.kind == "model" else None


def lineage_of(uri: str, manifest: Manifest) -> Lineage:
    """Return what the manifest of the result at `uri` tells."""
    recipe = manifest.recipe
    return Lineage(
        uri=uri,
        job=f"{manifest.namespace}/{manifest.job}",
        uid=manifest.uid,
        step=manifest.step,
        objective=recipe.objective if recipe else "",
        method=str(recipe.tuning.get("method", "")) if recipe else "",
        base=recipe.model if recipe else "",
    )
