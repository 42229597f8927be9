"""The architecture table against transformers itself, and against published figures."""

from __future__ import annotations

import pytest

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, Head, architecture_of, lora_parameters
from finetune_operator.planner.known_models import KNOWN_MODELS

ALL_LINEAR = ("all-linear",)


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


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


def test_of_a_multimodal_model_the_text_part_counts() -> None:
    text = {**KNOWN_MODELS["mistralai/Mistral-7B-v0.3"]}
    both = {"model_type": "mistral3", "vision_config": {"hidden_size": 1024}, "text_config": text}
    assert architecture_of(both) == architecture_of(text)


def test_the_flag_outside_the_text_config_says_whether_the_head_is_shared() -> None:
    text = {**KNOWN_MODELS["mistralai/Mistral-7B-v0.3"]}
    both = architecture_of({"model_type": "mistral3", "tie_word_embeddings": True, "text_config": text})
    assert isinstance(both, Architecture)
    assert both.tied_embeddings


def test_before_transformers_5_the_experts_of_mixtral_are_adapted_and_quantised() -> None:
    config = KNOWN_MODELS["mistralai/Mixtral-8x7B-v0.1"]
    now, before = known("mistralai/Mixtral-8x7B-v0.1"), architecture_of(config, transformers_major=4)
    assert isinstance(before, Architecture)
    assert now.parameters == before.parameters
    assert now.quantisable_parameters == 32 * 2 * (4096 * 4096 + 4096 * 1024)
    assert before.quantisable_parameters == now.quantisable_parameters + 32 * 8 * (3 * 4096 * 14336 + 4096)
    assert set(before.linear_names()) - set(now.linear_names()) == {"gate", "w1", "w2", "w3"}


def test_before_transformers_5_falcon_is_quantised() -> None:
    config = KNOWN_MODELS["tiiuae/falcon-7b"]
    now, before = known("tiiuae/falcon-7b"), architecture_of(config, transformers_major=4)
    assert isinstance(before, Architecture)
    assert (now.quantisable_parameters, before.quantisable_parameters) == (0, now.linear_parameters)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen-7B", 7.721324544),
        ("baichuan-inc/Baichuan2-7B-Chat", 7.505973248),
        ("baichuan-inc/Baichuan2-13B-Chat", 13.896668160),
        ("THUDM/chatglm3-6b", 6.243584000),
        ("internlm/internlm2-7b", 7.737708544),
    ],
)
def test_models_that_brought_their_own_code_have_as_many_parameters_as_their_published_weights(
    name: str, billions: float
) -> None:
    assert known(name).parameters == round(billions * 1e9)


def test_deepseek_v3_has_three_dense_layers_and_keys_wider_than_values() -> None:
    architecture = known("deepseek-ai/DeepSeek-V3")
    assert [(block.copies, block.feed_forward.experts) for block in architecture.blocks] == [(3, 0), (58, 256)]
    attention = architecture.main_block.attention
    assert (attention.query_width, attention.value_width) == (128 * 192, 128 * 128)
    assert architecture.active_parameters == pytest.approx(37e9, rel=0.02)


def test_layers_with_and_without_a_window_are_kinds_of_their_own() -> None:
    windows = {block.attention.window: block.copies for block in known("google/gemma-3-4b-it").blocks}
    assert windows == {1024: 29, 0: 5}


def test_a_list_of_layers_that_is_none_is_named() -> None:
    answer = architecture_of({**KNOWN_MODELS["Qwen/Qwen3-30B-A3B"], "mlp_only_layers": "all"})
    assert isinstance(answer, PlanError)
    assert "mlp_only_layers is 'all'" in answer.message


def test_a_classifier_of_a_decoder_has_labels_instead_of_a_vocabulary() -> None:
    found = architecture_of(KNOWN_MODELS["Qwen/Qwen3-0.6B"], head=Head.SEQUENCE_CLASSIFICATION, labels=3)
    assert isinstance(found, Architecture)
    assert found.labels == 3
    assert found.parameters == known("Qwen/Qwen3-0.6B").parameters + 3 * 1024
