"""The model card: what hubs read of it, what it says of data, licence and lineage, and how servers load what is published."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from finetune_operator.api.inspection import ModelLicense
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.publish.card_lineage import Trial
from finetune_trainer.publish.model_card import History, model_card


def card_of(attempt: AttemptFile, **changes: Any) -> str:
    spec = attempt.spec.to_json_dict()
    for name, fields in changes.items():
        spec[name] = {**spec[name], **fields}
    facts = attempt.inspection.model.model_copy(
        update={
            "license": ModelLicense(id="other", name="llama3.1", link="LICENSE"),
            "revision": "c0ffee",
            "uri": spec["model"]["uri"],
        }
    )
    inspection = attempt.inspection.model_copy(update={"model": facts})
    changed = attempt.model_copy(update={"spec": type(attempt.spec).model_validate(spec), "inspection": inspection})
    manifest = Manifest(
        kind="checkpoint",
        namespace="default",
        job="tiny",
        uid=attempt.uid,
        attempt=2,
        step=8,
        world_size=1,
        strategy="single",
        created_at="2026-01-01T00:00:00Z",
        versions={"torch": "2.13.0"},
        files=(),
    )
    return model_card(changed, manifest, History(((1, 3.5), (8, 0.25))), Trial(8, 0.004, 7))


def test_hubs_read_base_licence_and_job_of_it(attempt: AttemptFile) -> None:
    card = ModelCard(card_of(attempt, model={"uri": "hf://org/base"}, tuning={"method": "lora"}))
    front = card.data.to_dict()
    assert front["base_model"] == "org/base"
    assert front["base_model_relation"] == "finetune"
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "llama3.1", "LICENSE")
    assert front["finetune_operator"] == {"job": "default/tiny", "uid": attempt.uid, "step": 8}


def test_data_losses_and_trial_are_told(attempt: AttemptFile) -> None:
    card = card_of(attempt)
    for file in attempt.inspection.dataset.files:
        assert f"| `{file.uri}` | {file.size} | {file.etag} |" in card
    assert "3.5000 (step 1) → 0.2500 (step 8)" in card
    assert "largest difference 0.004 of the largest logit; 7 of 8 greedily generated tokens equal" in card
    assert "names its licence: other, llama3.1, LICENSE" in card


@pytest.mark.parametrize(
    ("method", "output", "there", "absent"),
    [
        ("full", {}, "vllm serve <this folder>", "--enable-lora"),
        ("lora", {}, "vllm serve <this folder>", "llama-server"),
        ("lora", {"merge": False}, "--lora-modules tiny=<this folder>/adapter", "vllm serve <this folder>"),
        ("lora", {}, "--max-lora-rank 16 ", "llama-server"),
        ("lora", {"gguf": ["q8_0"]}, "llama-server --model <this folder>/tiny-Q8_0.gguf", "F16.gguf"),
    ],
)
def test_servers_are_told_what_there_is_to_load(
    method: str, output: dict[str, Any], there: str, absent: str, attempt: AttemptFile
) -> None:
    card = card_of(attempt, tuning={"method": method}, output=output)
    assert there in card
    assert absent not in card
    assert card.count("```") % 2 == 0
