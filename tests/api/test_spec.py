"""The models refuse what cannot be done, in words that name the field and the remedy."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from finetune_operator.api.inspection import inspection_key
from finetune_operator.api.job import FineTuneJob, InvalidJob
from finetune_operator.api.model import SpecModel
from finetune_operator.api.plan import checkpoint_uri
from finetune_operator.api.spec import FineTuneJobSpec


def test_a_minimal_manifest_is_complete(good_manifest: dict[str, Any]) -> None:
    spec = FineTuneJob.from_manifest(good_manifest).spec
    assert spec.tuning.method == "lora"
    assert spec.learning_rate == 2e-4
    assert spec.training.epochs_or_default == 3
    assert spec.tuning.adapter.targets == ["all-linear"]


def test_a_job_survives_the_way_to_json_and_back(good_manifest: dict[str, Any]) -> None:
    job = FineTuneJob.from_manifest(good_manifest)
    assert FineTuneJob.from_manifest(job.to_json_dict()) == job


def test_a_mistake_is_refused_with_field_and_remedy(mistake: dict[str, Any], bad_manifest: dict[str, Any]) -> None:
    if mistake.get("cluster_only"):
        assert FineTuneJob.from_manifest(bad_manifest)
        return
    with pytest.raises(InvalidJob) as refusal:
        FineTuneJob.from_manifest(bad_manifest)
    for words in mistake["says"]:
        assert words in str(refusal.value)


def test_a_number_where_a_text_belongs_is_to_be_put_in_quotes(good_manifest: dict[str, Any]) -> None:
    good_manifest["spec"]["evaluation"] = {"require": {"perplexity": 12}}
    with pytest.raises(InvalidJob, match=r"spec\.evaluation\.require\.perplexity: must be a text and is 12; put it in"):
        FineTuneJob.from_manifest(good_manifest)


def test_every_part_of_a_spec_refuses_what_the_api_server_refuses() -> None:
    parts = [FineTuneJobSpec]
    for model in parts:
        assert issubclass(model, SpecModel), f"{model.__name__} is part of a spec: derive it from SpecModel"
        nested = {each for field in model.model_fields.values() for each in models_in(field.annotation)}
        parts.extend(sorted(nested - set(parts), key=lambda each: each.__name__))
    assert len(parts) > 5


def models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {each for part in get_args(annotation) for each in models_in(part)}


def test_jobs_with_equal_inputs_share_an_inspection(good_manifest: dict[str, Any]) -> None:
    spec = FineTuneJob.from_manifest(good_manifest).spec
    other = spec.model_copy(update={"resources": spec.resources.model_copy(update={"gpus": 4})})
    assert inspection_key("default", spec) == inspection_key("default", other)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"revision": "v2"}),
        ("dataset", {"format": "alpaca"}),
        ("output", {"uri": "s3://models/other"}),
        ("checkpoint", {"uri": "s3://scratch/other"}),
        ("training", {"max_length": 512}),
    ],
)
def test_a_changed_input_is_inspected_anew(good_manifest: dict[str, Any], part: str, change: dict[str, Any]) -> None:
    spec = FineTuneJob.from_manifest(good_manifest).spec
    changed = spec.model_copy(update={part: getattr(spec, part).model_copy(update=change)})
    assert inspection_key("default", spec) != inspection_key("default", changed)


def test_another_namespace_is_inspected_anew(good_manifest: dict[str, Any]) -> None:
    spec = FineTuneJob.from_manifest(good_manifest).spec
    assert inspection_key("default", spec) != inspection_key("other", spec)


def test_a_job_created_again_has_another_checkpoint_folder(good_manifest: dict[str, Any]) -> None:
    spec = FineTuneJob.from_manifest(good_manifest).spec
    first = checkpoint_uri(spec, "support-bot", "11111111-aaaa")
    assert first == "s3://models/support-bot/checkpoints/support-bot-11111111"
    assert first != checkpoint_uri(spec, "support-bot", "22222222-aaaa")


def test_fp16_is_refused_with_its_reason_and_what_to_use_instead(good_manifest: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"training.precision\n *fp16 is not offered: accelerate .* use bf16"):
        FineTuneJobSpec.model_validate({**good_manifest["spec"], "training": {"precision": "fp16"}})


def test_ppo_is_refused_with_its_reason_and_what_to_use_instead(good_manifest: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"ppo is not offered: TRL 1.16 has no trainer .* use objective: rloo or grpo"
    ):
        FineTuneJobSpec.model_validate({**good_manifest["spec"], "objective": "ppo"})
