"""Which modules adapters may be put on: what the planner refuses before PEFT would."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, architecture_of, text_part
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.targets import check_targets
from finetune_operator.planner.testing import bad, good, plan_of, spec_of

MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_dropout_before_adapters_of_experts_is_refused_with_targets_that_allow_it() -> None:
    error = bad(plan_of(spec_of(MIXTRAL, method="lora", lora={"dropout": 0.1})))
    assert error.reason == Reason.INVALID_SPEC
    assert "tuning.lora.dropout is 0.1" in error.message
    assert ", ".join(ATTENTION) in error.message


def test_dropout_before_adapters_of_attention_is_planned_in_a_model_with_experts() -> None:
    good(plan_of(spec_of(MIXTRAL, method="lora", lora={"dropout": 0.1, "targets": ATTENTION})))


def test_half_of_an_experts_joined_weight_is_no_target() -> None:
    error = bad(plan_of(spec_of(MIXTRAL, method="lora", lora={"targets": ["w1", "q_proj"]})))
    assert "add w3" in error.message


def test_experts_are_targets_by_the_names_of_their_linear_modules() -> None:
    some = good(plan_of(spec_of(MIXTRAL, method="lora", lora={"targets": ["w1", "w2", "w3"]})))
    attention = good(plan_of(spec_of(MIXTRAL, method="lora", lora={"targets": ATTENTION})))
    assert some.trainable_parameters > 10 * attention.trainable_parameters


def test_a_router_that_returns_two_tensors_is_no_target() -> None:
    llama4 = architecture_of(text_part(KNOWN_MODELS[next(name for name in KNOWN_MODELS if "Llama-4-Scout" in name)]))
    assert isinstance(llama4, Architecture)
    error = bad(check_targets(spec_of(method="lora"), llama4))
    assert "cannot adapt the router" in error.message
    assert "q_proj" in error.message
    assert check_targets(spec_of(method="lora", lora={"targets": ATTENTION}), llama4) is None
