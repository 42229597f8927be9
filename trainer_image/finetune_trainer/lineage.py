"""Whether a model is the result of another job, and what its manifest tells of that: what a chain of jobs carries on."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from finetune_operator.api.chat_templates import TEMPLATE_TOKENS
from finetune_operator.api.compatibility import Objective
from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.inspection import InitialAdapter, InputFile, Lineage
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.recipe import Recipe
from finetune_operator.api.spec import FineTuneJobSpec, ModelSource
from finetune_trainer.named_templates import template_source
from finetune_trainer.storage import Storage, open_storage
from finetune_trainer.tokenizer_files import TEMPLATE_FILE

ADAPTER_FOLDER: Final = "adapter"
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")
_WITHOUT_REFERENCE: Final = frozenset({Objective.SFT, Objective.PRETRAIN, Objective.ORPO, Objective.DISTILL})
"""Objectives that train a model which writes, and do not compare it with what it was before."""


def result_manifest(storage: Storage) -> Manifest | None:
    """Return the manifest of a result; None where there is none, or a file of that name that is not ours."""
    if not storage.exists(MANIFEST_FILE):
        return None
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST_FILE))
    except ValidationError:
        return None
    return manifest if manifest.kind == "model" else None


def starting_point(spec: FineTuneJobSpec) -> tuple[ModelSource, Lineage | None]:
    """Return the model that a job loads, and whose result it starts from.

    An adapter of the same method and settings is gone on with, on the base that it was trained on; of all others the merged model is started from.
    """
    source = spec.model
    storage = open_storage(source.uri, revision=source.revision)
    manifest = result_manifest(storage)
    if manifest is None:
        return source, None
    lineage = _lineage_of(source.uri, manifest)
    recipe = manifest.recipe
    if recipe is None or not _goes_on(recipe, spec):
        return source, lineage
    base = source.model_copy(update={"uri": recipe.model, "revision": recipe.revision or "main"})
    lineage = lineage.model_copy(update={"adapter": _initial_adapter(storage, base)})
    template = lineage.adapter and lineage.adapter.chat_template
    return base.model_copy(update={"chat_template": source.chat_template or template}), lineage


def lineage_of_result(storage: Storage) -> Lineage | None:
    """Return what the manifest of a result tells of the job that made it; None where the model is nobody's result."""
    manifest = result_manifest(storage)
    return None if manifest is None else _lineage_of(storage.uri, manifest)


def _goes_on(recipe: Recipe, spec: FineTuneJobSpec) -> bool:
    """Whether training goes on with the adapter of a result.

    Not where a reference is compared with: it would be the model without the adapter, from before the chain.
    """
    writes = recipe.objective in {*_WITHOUT_REFERENCE, Objective.DPO, Objective.KTO}
    is_same = recipe.tuning == spec.tuning.with_defaults().to_json_dict()
    return writes and is_same and spec.objective in _WITHOUT_REFERENCE and not spec.tuning.trains_base


def _initial_adapter(storage: Storage, base: ModelSource) -> InitialAdapter:
    files = [storage.head(f"{ADAPTER_FOLDER}/{name}") for name in ADAPTER_FILES]
    template: str | None = None
    if storage.exists(TEMPLATE_FILE):
        template = storage.read(TEMPLATE_FILE).decode(errors="replace")
        known = open_storage(base.uri, revision=base.revision)
        if known.exists(TEMPLATE_FILE) and known.read(TEMPLATE_FILE).decode(errors="replace") == template:
            template = None
    named = next((name for name in TEMPLATE_TOKENS if template_source(name) == template), template)
    return InitialAdapter(
        uri=f"{storage.uri}/{ADAPTER_FOLDER}",
        files=tuple(InputFile(uri=file.uri, size=file.size, etag=file.etag) for file in files),
        chat_template=named,
    )


def _lineage_of(uri: str, manifest: Manifest) -> Lineage:
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
