"""Adapters on experts: what the closed form counts against what PEFT makes, for every family with experts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tests.memory.small_configs import DECODERS
from tests.memory.transformers_counts import loaded_config
from transformers import AutoModelForCausalLM

from finetune_operator.api.model_types import EXPERTS_ADAPTED
from finetune_operator.memory.architecture import ALL_LINEAR, Architecture, architecture_of, lora_parameters

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing`:FutureWarning"
    ),  # peft 0.21 asks transformers for it
    pytest.mark.filterwarnings(
        "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"
    ),  # of parameters it uses them all the same
]

WITH_EXPERTS = {
    name: config
    for name, config in DECODERS.items()
    if any(word in json.dumps(config) for word in ("num_experts", "num_local_experts", "n_routed_experts"))
}


def architecture(config: dict[str, Any]) -> Architecture:
    found = architecture_of(config)
    assert isinstance(found, Architecture)
    return found


def adapted(config: dict[str, Any], *, dropout: float = 0.0) -> tuple[Any, LoraConfig]:
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
    return get_peft_model(AutoModelForCausalLM.from_config(loaded_config(config)), lora), lora


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_all_linear_trains_as_many_parameters_as_peft_does(name: str) -> None:
    model, lora = adapted(WITH_EXPERTS[name])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert lora_parameters(architecture(WITH_EXPERTS[name]), 4, (ALL_LINEAR,)) == trained
    assert bool(lora.target_parameters) == (WITH_EXPERTS[name]["model_type"] in EXPERTS_ADAPTED)


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_dropout_is_refused_by_peft_where_experts_are_adapted_and_nowhere_else(name: str) -> None:
    if WITH_EXPERTS[name]["model_type"] not in EXPERTS_ADAPTED:
        adapted(WITH_EXPERTS[name], dropout=0.1)
        return
    with pytest.raises(ValueError, match="ParamWrapper does not work with lora_dropout"):
        adapted(WITH_EXPERTS[name], dropout=0.1)


def test_targets_of_transformers_4_names_adapt_experts_and_no_linear_module_of_the_same_name() -> None:
    model = architecture(DECODERS["deepseek_v3"])
    names = {tensor.name for tensor in model.adapted(("gate_proj", "up_proj", "q_a_proj"))}
    assert names == {"experts", "q_a_proj"}
