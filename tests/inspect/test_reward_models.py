"""Models that answers are rewarded by: what of them the inspection refuses, before a GPU is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.inspect.conftest import write_model

from finetune_operator.api.constants import MANIFEST_FILE
from finetune_operator.api.inspection import InspectionReport, InspectionRequest, inspection_key
from finetune_operator.api.manifest import Manifest
from finetune_operator.api.recipe import Recipe
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inspect.command import inspect

SCORES = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
TURNS = [{"prompt": [{"role": "user", "content": "How many?"}]}] * 8
TEXTS = [{"prompt": "How many? "}] * 8


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    return with_config(write_model(tmp_path / "judge"), **SCORES)


@pytest.fixture
def inspect_with(request_for: Callable[..., InspectionRequest], rows: Path) -> Callable[..., InspectionReport]:
    def look(judge: Path, data: list[dict[str, Any]] = TURNS) -> InspectionReport:
        rows.write_text("".join(json.dumps(row) + "\n" for row in data))
        request = request_for().to_json_dict()
        rewards = [{"model": {"uri": f"file://{judge}"}}, {"verifier": "answer-format"}]
        request["spec"]["objective"] = "rloo"
        request["spec"]["dataset"]["format"] = "prompt"
        request["spec"]["training"] = {"rloo": {"rewards": rewards}, "maxLength": 512, "globalBatchSize": 8}
        return inspect(InspectionRequest.model_validate(request))

    return look


def with_config(folder: Path, **changes: Any) -> Path:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    return folder


@pytest.mark.parametrize("data", [TURNS, TEXTS])
def test_a_reward_model_is_described_beside_the_model(
    data: list[dict[str, Any]], judge: Path, inspect_with: Callable[..., InspectionReport]
) -> None:
    (facts,) = inspect_with(judge, data).reward_models

    assert facts.uri == f"file://{judge}"
    assert facts.architecture == "LlamaForSequenceClassification"
    assert facts.parameters == 16 * 8 + 8
    assert {file.uri.rsplit("/", 1)[1] for file in facts.files} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "is no sequence classifier .* objective reward"),
        ({"id2label": {"0": "bad", "1": "good"}}, "has 2 outputs"),
        ({"id2label": None}, "has 2 outputs"),
        ({"model_type": "bert"}, "is an encoder .* decoder-only"),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "own.Model"}},
            "has model_type own, which transformers brings no code for",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantised, .* name the 16-bit model"),
    ],
)
def test_what_cannot_score_answers_is_refused(
    changes: dict[str, Any], said: str, judge: Path, inspect_with: Callable[..., InspectionReport]
) -> None:
    with pytest.raises(TrainerFailure, match=f"^rewards.model.uri: file://{judge} {said}"):
        inspect_with(with_config(judge, **changes))


def test_an_adapter_alone_is_refused_with_the_remedy(
    judge: Path, inspect_with: Callable[..., InspectionReport]
) -> None:
    (judge / "config.json").unlink()
    (judge / "adapter").mkdir()
    (judge / "adapter" / "adapter_config.json").write_text("{}")

    with pytest.raises(TrainerFailure, match=r"is an adapter alone; .* output\.merge: true"):
        inspect_with(judge)


def test_the_result_of_another_objective_is_no_reward_model(
    judge: Path, inspect_with: Callable[..., InspectionReport]
) -> None:
    recipe = Recipe(model="hf://org/base", model_files="", objective="reranker", tuning={}, training={})
    manifest = Manifest(
        kind="model", namespace="team", job="ranker", uid="uid-2", attempt=1, step=1, world_size=1, strategy="single",
        recipe=recipe, created_at="2026-11-22T00:00:00Z", versions={}, files=(),
    )  # fmt: skip
    (judge / MANIFEST_FILE).write_text(manifest.model_dump_json(by_alias=True))

    with pytest.raises(TrainerFailure, match="is the result of objective reranker"):
        inspect_with(judge)


def test_prompts_of_turns_need_the_reward_models_own_template(
    judge: Path, inspect_with: Callable[..., InspectionReport]
) -> None:
    (judge / "chat_template.jinja").unlink()

    with pytest.raises(
        TrainerFailure, match=r"train\.jsonl, line 1: .* cannot read the prompt with an answer: .* no chat template"
    ):
        inspect_with(judge)
    inspect_with(judge, TEXTS)


def test_other_rewards_are_another_inspection(request_for: Callable[..., InspectionRequest]) -> None:
    def key(uri: str) -> str:
        spec = request_for(training={"globalBatchSize": 8}).spec
        document = {**spec.to_json_dict(), "objective": "rloo"}
        document["training"]["rloo"] = {"rewards": [{"model": {"uri": uri}}]}
        return inspection_key("team", spec.model_validate(document))

    assert key("s3://models/one") != key("s3://models/other")
