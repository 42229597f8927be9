"""What a checkpoint was trained by, and whether another job's training is the same: `checkpoint.resumeFrom` goes on only where it is.

A checkpoint has trained weights, optimizer states, a schedule and a position in the data. With another base model, other adapters or other settings
they would load (shapes are often equal) and mean something else, so everything is compared but what only says how long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import Field, JsonValue, ValidationError

from finetune_operator.api.inspection import InputFile, InspectionReport, ModelFacts
from finetune_operator.api.model import ReadModel, SpecModel
from finetune_operator.api.preference import OBJECTIVE_SETTINGS
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.training import Training
from finetune_operator.api.tuning import Tuning

MAY_DIFFER: Final = frozenset({"epochs", "max_steps", "stop_on_divergence", "early_stopping"})
"""Of spec.training: how long it goes, and when it is given up. The schedule then runs to the new end."""


class Recipe(ReadModel):
    """The model that a training started from, and every setting that decides its losses."""

    model: str = Field(description="The base model's URI.")
    revision: str = Field("", description="Its commit, where it has one.")
    model_files: str = Field(description="Digest of names, sizes and ETags of its files.")
    objective: str
    tuning: dict[str, JsonValue] = Field(description="spec.tuning, with defaults.")
    training: dict[str, JsonValue] = Field(description="spec.training, with defaults, without how long it goes.")
    reward_files: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the files that rewards' functions are in, by configmap:NAME/KEY."
    )


def digest_of(files: Iterable[InputFile]) -> str:
    """Return the digest (16 hex digits) of names, sizes and ETags of a model's files, wherever they lie."""
    named = sorted((file.uri.rsplit("/", 1)[-1], file.size, file.etag) for file in files)
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def recipe_of(spec: FineTuneJobSpec, model: ModelFacts, reward_files: Iterable[InputFile] = ()) -> Recipe:
    """Return what a job trains by."""
    return Recipe(
        model=model.uri,
        revision=model.revision,
        model_files=digest_of(model.files),
        objective=spec.objective,
        tuning=spec.tuning.with_defaults().to_json_dict(),
        training=spec.training.model_copy(
            update={"learning_rate": spec.learning_rate, **_own_settings(spec)}
        ).model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(MAY_DIFFER)),
        reward_files={file.uri: file.etag or "" for file in reward_files},
    )


def written_recipe(spec: FineTuneJobSpec, inspection: InspectionReport) -> Recipe | None:
    """Return what a manifest says that its files were trained by; nothing of a user's own script, of which that is not known."""
    return recipe_of(spec, inspection.model, inspection.reward_files) if spec.trainer is None else None


def _own_settings(spec: FineTuneJobSpec) -> dict[str, SpecModel]:
    """Return the objective's block with its defaults: left out, it means the same."""
    settings = OBJECTIVE_SETTINGS.get(spec.objective)
    return {} if settings is None else {spec.objective: getattr(spec.training, spec.objective) or settings()}


def recipe_obstacle(written: Recipe, wanted: Recipe) -> str | None:
    """Return why a training by `wanted` cannot go on from a checkpoint of `written`, None when it can."""
    is_same_commit = wanted.revision and (written.model, written.revision) == (wanted.model, wanted.revision)
    if not is_same_commit and written.model_files != wanted.model_files:
        if written.model != wanted.model:
            return f"it was trained from {written.model} and model.uri is {wanted.model}"
        return (
            f"it was trained from {written.model} as it was then ({written.revision or 'its files have changed since'})"
        )
    if written.objective != wanted.objective:
        return f"it was trained with objective: {written.objective} and this job has {wanted.objective}"
    for part, schema in (("tuning", Tuning), ("training", Training)):
        before = dict(_flat(_completed(schema, getattr(written, part)), part))
        now = dict(_flat(getattr(wanted, part), part))
        for field in sorted(before.keys() | now.keys()):
            if before.get(field) != now.get(field):
                return f"it was trained with {field}: {_shown(before, field)} and this job has {_shown(now, field)}"
    for name in sorted(written.reward_files.keys() | wanted.reward_files.keys()):
        if written.reward_files.get(name) != wanted.reward_files.get(name):
            return f"it was trained with another {name}, which training.{wanted.objective}.rewards are computed by"
    return None


def _completed(schema: type[SpecModel], values: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the values with the defaults of fields that an earlier version did not have."""
    try:
        known = schema.model_validate(values)
    except ValidationError:  # of a newer version: compared as it is, and the difference is named
        return dict(values)
    return known.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(MAY_DIFFER))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _shown(values: Mapping[str, Any], field: str) -> str:
    return json.dumps(values[field]) if field in values else "none"
