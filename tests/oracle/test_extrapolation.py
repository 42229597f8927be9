"""Two shallow traces tell every depth: shown where layers are alike, alternate, or begin otherwise, and where they are sharded."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.oracle.extrapolation import shallow_depths, trace_extrapolated
from finetune_trainer.oracle.setting import Precision, TracedMethod, TraceSetting
from finetune_trainer.oracle.step import trace

SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 4096}
LLAMA = {"model_type": "llama", **SMALL, "num_hidden_layers": 9, "num_key_value_heads": 2}
GEMMA_3 = {
    "model_type": "gemma3_text",
    **SMALL,
    "num_hidden_layers": 11,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 5 + ["sliding_attention"],
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    **SMALL,
    "num_hidden_layers": 9,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 128,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
}


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        pytest.param(LLAMA, TraceSetting(sequence_length=512), id="llama"),
        pytest.param(
            LLAMA,
            TraceSetting(
                method=TracedMethod.LORA, precision=Precision.AUTOCAST, checkpointing=True, sequence_length=512
            ),
            id="llama, lora, checkpointing",
        ),
        pytest.param(LLAMA, TraceSetting(processes=4, sequence_length=512), id="llama, fsdp"),
        pytest.param(LLAMA, TraceSetting(processes=4, checkpointing=True, sequence_length=512), id="fsdp, ckpt"),
        pytest.param(GEMMA_3, TraceSetting(sequence_length=512), id="gemma 3, sliding and full layers"),
        pytest.param(DEEPSEEK, TraceSetting(sequence_length=512), id="deepseek v3, two dense layers first"),
    ],
)
def test_the_line_through_two_shallow_traces_meets_the_full_one(config: dict[str, Any], setting: TraceSetting) -> None:
    assert shallow_depths(config)[1] < config["num_hidden_layers"]
    full, line = trace(config, setting), trace_extrapolated(config, setting)
    assert line.peak == full.peak
    assert line.peak_phase == full.peak_phase
    assert line.parameters == full.parameters
    assert {phase: part.peak for phase, part in line.phases.items()} == pytest.approx(
        {phase: part.peak for phase, part in full.phases.items()}, rel=1e-3
    )


def test_a_config_without_a_depth_says_so() -> None:
    with pytest.raises(ValueError, match="number of layers"):
        trace_extrapolated({"model_type": "llama"}, TraceSetting())
