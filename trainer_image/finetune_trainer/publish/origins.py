"""What a model card says of the models of others that a job has used: the result it started from, and what judged its answers."""

from __future__ import annotations

from finetune_operator.api.inspection import InputFile, InspectionReport, Lineage, ModelFacts


def origins(inspection: InspectionReport) -> list[tuple[str, object]]:
    """Return a row for each of them."""
    before = inspection.model.lineage
    started: list[tuple[str, object]] = [("started from", _started_from(before))] if before is not None else []
    judges = (("reward model", _judge(facts)) for facts in inspection.reward_models)
    return [*started, *judges, *(("rewarded by", _code(file)) for file in inspection.reward_files)]


def _started_from(before: Lineage) -> str:
    how = f" ({before.objective}, {before.method})" if before.objective else ""
    base = f", itself from `{before.base.removeprefix('hf://')}`" if before.base else ""
    whole = "the adapter" if before.adapter else "the result"
    return f"{whole} of job {before.job}{how} after step {before.step}, uid {before.uid}{base}"


def _code(file: InputFile) -> str:
    return f"`{file.uri}`, {file.size} bytes, SHA-256 `{file.etag}`"


def _judge(facts: ModelFacts) -> str:
    commit = f" at `{facts.revision}`" if facts.revision else ""
    origin = facts.lineage
    made = f", the result of job {origin.job} after step {origin.step}, uid {origin.uid}" if origin else ""
    return f"`{facts.uri.removeprefix('hf://')}`{commit}{made}"
