"""Llama 4's class for text is its own base model in transformers: the trainer names the part below the head, and the oracle traces it."""

from __future__ import annotations

import pytest
from traced.cases import Case
from traced.comparison import Comparison, compare, traced_case

from finetune_operator.memory.kinds import FLOAT32_MASTER, LossKind, Tuning
from finetune_operator.memory.workload import Workload

CONFIG = {
    "model_type": "llama4_text",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "intermediate_size_mlp": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 16384,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("loss", [LossKind.FULL_LOGITS, LossKind.CHUNKED])
def test_an_adapter_beside_the_experts_is_predicted_within_1_percent(loss: LossKind) -> None:
    workload = Workload(
        Tuning.LORA, FLOAT32_MASTER, 1, 1024, rank=16, targets=("q_proj", "v_proj"), loss=loss, packing=True
    )
    case = Case("llama-4", CONFIG, workload)

    found = compare(case, traced_case(case))

    assert isinstance(found, Comparison)
    assert abs(found.error) < 0.01
