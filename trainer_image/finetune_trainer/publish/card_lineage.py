"""The part of a model card that says where the model comes from: job, checkpoint, the models it has learned from, and how it was tried."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.inspection import InputFile, Lineage, ModelFacts
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_operator.api.recipe import digest_of


@dataclass(frozen=True)
class Trial:
    """What the finished model did when it was tried."""

    generated_tokens: int
    merge_difference: float | None = None
    """Largest difference of a logit between the merged model and base with adapter, as a share of the largest logit."""
    equal_tokens: int = 0
    """How many of the generated tokens the merged model and base with adapter have in common."""


def lineage_rows(attempt: AttemptFile, checkpoint: Manifest, trial: Trial) -> list[tuple[str, object]]:
    """Return names and values, in order."""
    lineage: list[tuple[str, object]] = [
        ("job", f"{attempt.namespace}/{attempt.name}"),
        ("uid", attempt.uid),
        *_origin(attempt.inspection.model.lineage),
        *_another("teacher", attempt.inspection.teacher),
        *(row for facts in attempt.inspection.reward_models for row in _another("reward model", facts)),
        *(("rewarded by", _code(file)) for file in attempt.inspection.reward_files),
        ("attempt", checkpoint.attempt),
        ("checkpoint", f"step {checkpoint.step}, written by {checkpoint.world_size} processes ({checkpoint.strategy})"),
        ("tried", f"{_generated(trial)}all logits finite"),
    ]
    if trial.merge_difference is not None:
        lineage.append(
            (
                "merged against adapter",
                f"largest difference {trial.merge_difference:.2g} of the largest logit{_equal(trial)}",
            )
        )
    return lineage


def _origin(before: Lineage | None) -> list[tuple[str, object]]:
    """Return the row of the job whose result this one has started from."""
    if before is None:
        return []
    how = f" ({before.objective}, {before.method})" if before.objective else ""
    base = f", itself from `{before.base.removeprefix('hf://')}`" if before.base else ""
    whole = "the adapter" if before.adapter else "the result"
    return [("started from", f"{whole} of job {before.job}{how} after step {before.step}, uid {before.uid}{base}")]


def _another(role: str, facts: ModelFacts | None) -> list[tuple[str, object]]:
    """Return the rows of a model that was learned from: where it is, its licence, and whose result it is."""
    if facts is None:
        return []
    revision = f" at `{facts.revision}`" if facts.revision else ""
    licence = f", licence {facts.license.id}" if facts.license else ""
    known = f"`{facts.uri.removeprefix('hf://')}`{revision}, {facts.parameters} parameters, files {digest_of(facts.files)}{licence}"
    before = facts.lineage
    made = (
        [
            (
                f"{role} made by",
                f"job {before.job} ({before.objective}, {before.method}) after step {before.step}, uid {before.uid}",
            )
        ]
        if before
        else []
    )
    return [(role, known), *made]


def _code(file: InputFile) -> str:
    return f"`{file.uri}`, {file.size} bytes, SHA-256 `{file.etag}`"


def _generated(trial: Trial) -> str:
    return f"{trial.generated_tokens} tokens generated, " if trial.generated_tokens else ""


def _equal(trial: Trial) -> str:
    if not trial.generated_tokens:
        return ""
    return f"; {trial.equal_tokens} of {trial.generated_tokens} greedily generated tokens equal"
