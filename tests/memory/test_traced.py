"""An architecture made of a trace's numbers alone, without tracing anything."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.architecture_trace import (
    ArchitectureTrace,
    TracedBytes,
    TracedLayers,
    TracedPass,
    TracedTensor,
)
from finetune_operator.memory.architecture import ALL_LINEAR, lora_parameters
from finetune_operator.memory.traced import traced_architecture

HIDDEN, WIDTH, EXPERTS, RANK = 64, 32, 8, 16
PASSES = tuple(
    TracedPass(method=method, precision=precision, kept=TracedBytes(per_token=2048), backward=TracedBytes(per_token=64))
    for method in ("full", "lora")
    for precision in ("bf16", "autocast")
)
LAYER = (
    TracedTensor(name="q_proj", kind="matrix", shape=(HIDDEN, HIDDEN), inputs=HIDDEN, outputs=HIDDEN),
    TracedTensor(name="gate_proj", kind="matrix", shape=(WIDTH, HIDDEN), inputs=HIDDEN, outputs=WIDTH),
    TracedTensor(name="gate", kind="matrix", shape=(EXPERTS, HIDDEN)),
    TracedTensor(name="gate_up_proj", kind="experts", shape=(EXPERTS, 2 * WIDTH, HIDDEN)),
    TracedTensor(name="down_proj", kind="experts", shape=(EXPERTS, HIDDEN, WIDTH)),
)


def traced(adapter_parameters: int, **config: Any) -> tuple[int, int]:
    """Return LoRA's and active parameters of three such layers."""
    trace = ArchitectureTrace(
        model_type="newest",
        hidden=HIDDEN,
        vocabulary=512,
        tied_embeddings=True,
        layers=(TracedLayers(copies=3, tensors=LAYER),),
        outer=(TracedTensor(name="words", kind="embedding", shape=(512, HIDDEN)),),
        passes=PASSES,
        rank=RANK,
        adapter_parameters=adapter_parameters,
    )
    architecture = traced_architecture({"num_attention_heads": 2, **config}, trace)
    return lora_parameters(architecture, RANK, (ALL_LINEAR,)), architecture.active_parameters


def test_adapters_are_on_linear_modules() -> None:
    expected = 3 * RANK * (2 * HIDDEN + HIDDEN + WIDTH)
    assert traced(expected)[0] == expected


def test_where_experts_have_adapters_too_each_has_its_own_and_linear_modules_of_their_names_have_none() -> None:
    experts = 2 * (HIDDEN + 2 * WIDTH) + (WIDTH + HIDDEN)
    expected = 3 * RANK * (2 * HIDDEN + (HIDDEN + EXPERTS) + EXPERTS * experts)
    assert traced(expected)[0] == expected


def test_experts_count_as_far_as_the_config_says_how_many_a_token_visits() -> None:
    everything, two = traced(0)[1], traced(0, num_experts_per_tok=2)[1]
    assert everything - two == 3 * (EXPERTS - 2) * 3 * WIDTH * HIDDEN
