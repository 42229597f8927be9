"""Which models GGUF files are made of: numbers that llama.cpp takes for granted are compared, not hoped for."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.gguf import gguf_obstacle

LLAMA: dict[str, Any] = {"model_type": "llama"}
GEMMA_2: dict[str, Any] = {
    "model_type": "gemma2",
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "hidden_size": 2304,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
}
GEMMA_2_27B = {**GEMMA_2, "num_hidden_layers": 46, "num_attention_heads": 32, "hidden_size": 4608, "head_dim": 128}


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {**LLAMA, "rope_parameters": {"rope_type": "llama3"}},
        GEMMA_2,
        {**GEMMA_2_27B, "query_pre_attn_scalar": 144},
        {**GEMMA_2, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "gemma3_text", "rope_parameters": {"full_attention": {"rope_type": "linear"}}},
    ],
)
def test_what_llama_cpp_knows_has_no_obstacle(config: dict[str, Any]) -> None:
    assert gguf_obstacle(config) is None


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "bert"}, "this is bert"),
        ({}, "without a model_type"),
        ({**LLAMA, "rope_scaling": {"rope_type": "dynamic"}}, "scaled by dynamic"),
        ({"model_type": "gemma3_text", "rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "scaled by yarn"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding window"),
        ({**LLAMA, "quantization_config": {"quant_method": "awq"}}, "in 16 bits"),
        ({**GEMMA_2, "query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224"),
        ({**GEMMA_2_27B, "query_pre_attn_scalar": 128}, "46 layers by 144"),
        ({**GEMMA_2, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}, "every 2th layer"),
    ],
)
def test_what_it_does_not_know_is_named(config: dict[str, Any], why: str) -> None:
    assert why in str(gguf_obstacle(config))
