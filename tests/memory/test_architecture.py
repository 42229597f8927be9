"""The architecture table against transformers itself, and against published figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, architecture_of, lora_parameters
from finetune_operator.planner.known_models import KNOWN_MODELS

ALL_LINEAR = ("all-linear",)


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


def unique_configs() -> list[tuple[str, dict[str, Any]]]:
    """Every shipped config once."""
    seen = {json.dumps(dict(config), sort_keys=True): name for name, config in KNOWN_MODELS.items()}
    configs = [(name, dict(KNOWN_MODELS[name])) for name in sorted(seen.values())]
    return configs


def test_parameter_counts_equal_transformers_on_the_meta_device_for_every_known_model() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    wrong = {}
    for name, config in unique_configs():
        fields = {key: value for key, value in config.items() if key != "model_type"}
        loaded = AutoConfig.for_model(config["model_type"], **fields)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(loaded)
        expected = sum(parameter.numel() for parameter in model.parameters())
        head = model.get_output_embeddings()
        linear = sum(
            module.weight.numel()
            for module in model.modules()
            if type(module).__name__ in ("Linear", "Conv1D") and module is not head
        )
        for source in (config, json.loads(json.dumps(loaded.to_dict(), default=str)), loaded.to_diff_dict()):
            found = architecture_of({**source, "model_type": config["model_type"]})
            assert isinstance(found, Architecture), (name, found)
            if (found.parameters, found.linear_parameters) != (expected, linear):
                wrong[name] = (found.parameters, expected, found.linear_parameters, linear)
    assert wrong == {}


def test_lora_of_rank_16_on_all_linear_layers_of_llama_3_8b_trains_41_943_040_parameters() -> None:
    architecture = known("meta-llama/Meta-Llama-3-8B")
    trainable = lora_parameters(architecture, 16, ALL_LINEAR)
    assert trainable == 41_943_040
    assert round(100 * trainable / (architecture.parameters + trainable), 4) == 0.5196


def test_lora_of_rank_64_on_query_and_value_of_llama_2_7b_trains_33_554_432_parameters() -> None:
    assert lora_parameters(known("meta-llama/Llama-2-7b-hf"), 64, ("q_proj", "v_proj")) == 33_554_432


def test_a_tied_head_is_counted_once_but_multiplies_every_token() -> None:
    small = known("meta-llama/Llama-3.2-1B")
    assert small.active_parameters == small.parameters


def test_experts_count_as_active_only_as_far_as_tokens_are_routed_to_them() -> None:
    assert known("Qwen/Qwen3-30B-A3B").active_parameters == pytest.approx(3.0e9, rel=0.05)


def test_an_unknown_model_type_names_the_supported_ones() -> None:
    answer = architecture_of({"model_type": "mamba", "hidden_size": 1})
    assert isinstance(answer, PlanError)
    assert answer.reason == Reason.UNKNOWN_ARCHITECTURE
    assert "'mamba'" in answer.message
    assert "llama" in answer.message
    assert "qwen3" in answer.message


@pytest.mark.parametrize("value", [None, 0, "4096", True])
def test_a_config_without_a_usable_width_names_the_field(value: object) -> None:
    config = {**KNOWN_MODELS["Qwen/Qwen3-8B"], "hidden_size": value}
    answer = architecture_of(config)
    assert isinstance(answer, PlanError)
    assert "hidden_size" in answer.message
