"""Which modules adapters may be put on: what the planner refuses before PEFT would."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, architecture_of, text_part
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.targets import check_targets
from finetune_operator.planner.testing import SMALL, bad, cpu_inventory, good, inspected, plan_of, spec_of

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


def test_magnitudes_of_experts_are_refused_with_targets_that_allow_them() -> None:
    error = bad(plan_of(spec_of(MIXTRAL, method="lora", lora={"variant": "dora"})))
    assert "tuning.lora.variant is dora" in error.message
    assert ", ".join(ATTENTION) in error.message


def test_dora_trains_a_magnitude_per_output_beside_the_adapters() -> None:
    plain, dora = (
        good(plan_of(spec_of(method="lora", lora={"variant": variant}))).trainable_parameters
        for variant in ("rslora", "dora")
    )
    assert plain == 41_943_040
    # Llama-3-8B: q 4096, k and v 1024 each, o 4096, gate and up 14336 each, down 4096, in 32 layers.
    assert dora - plain == 32 * (4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096)


def test_scales_that_are_not_quantised_take_more_memory() -> None:
    double, single = (
        good(plan_of(spec_of(method="qlora", quantization={"doubleQuantization": value}))).memory.expected_bytes
        for value in (True, False)
    )
    assert single > double


def test_the_last_layers_are_trained_with_norm_and_head() -> None:
    plan = good(plan_of(spec_of(method="freeze", freeze={"trainable": "last:2"})))
    head = good(plan_of(spec_of(method="freeze", freeze={"trainable": "head"})))
    assert head.trainable_parameters == 4096 + 128256 * 4096
    assert plan.trainable_parameters == head.trainable_parameters + 2 * 218_112_000
    assert plan.total_parameters == 8_030_261_248


def test_more_layers_than_the_model_has_cannot_be_trained() -> None:
    error = bad(plan_of(spec_of(method="freeze", freeze={"trainable": "last:33"})))
    assert "tuning.freeze.trainable: last:33 is more than the model's 32 layers" in error.message


def test_named_modules_of_the_last_layers_are_trained_without_norm_and_head() -> None:
    plan = good(plan_of(spec_of(method="freeze", freeze={"trainable": "last:4", "modules": ["q_proj", "down_proj"]})))
    assert plan.trainable_parameters == 4 * (4096 * 4096 + 4096 * 14336)
    error = bad(plan_of(spec_of(method="freeze", freeze={"modules": ["down_proj", "fc1"]})))
    assert error.message.startswith(
        "tuning.freeze.modules: fc1 is no linear layer of a llama model; use some of q_proj"
    )


def test_a_head_that_is_the_input_embedding_is_not_trained_alone() -> None:
    error = bad(plan_of(spec_of(SMALL, method="freeze", freeze={"trainable": "head"})))
    assert "use last:N" in error.message
    layers = good(plan_of(spec_of(SMALL, method="freeze", freeze={"trainable": "last:1"})))
    assert layers.trainable_parameters == 576 + 3_540_096


def test_spectrum_trains_its_share_of_every_kind_of_linear_layer() -> None:
    quarter = good(plan_of(spec_of(method="spectrum", spectrum={"topFraction": 0.25})))
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14336
    assert quarter.trainable_parameters == 8 * layer


def test_checkpoints_of_partly_trained_models_have_the_frozen_weights_too() -> None:
    full, frozen, adapted = (
        good(
            plan_of(spec_of(SMALL, method=method, resources={"accelerator": "cpu"}), cpu_inventory())
        ).resources.staging_bytes
        for method in ("full", "freeze", "lora")
    )
    assert full > frozen > adapted


def test_small_methods_train_what_their_papers_count() -> None:
    def trained(**tuning: object) -> int:
        return good(plan_of(spec_of(**tuning))).trainable_parameters

    # Llama-3-8B: keys and values of 1024, an MLP of 14336, 32 layers, hidden 4096.
    assert trained(method="ia3") == 32 * (2 * 1024 + 14336)
    assert trained(method="prompt", virtualTokens=8) == 8 * 4096
    assert trained(method="prefix") == 20 * 32 * 2 * 1024


def test_models_whose_factors_nobody_has_chosen_are_refused() -> None:
    error = bad(plan_of(spec_of(MIXTRAL, method="ia3")))
    assert "not for mixtral" in error.message
    assert "tuning.method: lora" in error.message


def test_a_prefix_is_never_planned_with_checkpointing() -> None:
    assert good(plan_of(spec_of(method="prefix", resources={"gpus": 1}))).gradient_checkpointing == "none"


def test_rows_behind_virtual_tokens_are_not_packed() -> None:
    data = inspected(rows=100_000, longest=5000)
    tokens = data.dataset.tokens.model_copy(update={"edges": (1, 100, 5001), "counts": (99_000, 1000)})
    data = data.model_copy(update={"dataset": data.dataset.model_copy(update={"tokens": tokens})})
    plans = [good(plan_of(spec_of(method=method), inspection=data)) for method in ("lora", "prompt")]
    assert [plan.packed for plan in plans] == [True, False]
