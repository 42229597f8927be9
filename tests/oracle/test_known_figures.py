"""Llama-3-8B, one sequence of 2,048 tokens: figures of an independent tracer (torch 2.13, transformers 5.23, peft 0.21), reproduced to 0.01 GiB."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_trainer.oracle.extrapolation import trace_extrapolated
from finetune_trainer.oracle.peak_tracker import TracedPhase
from finetune_trainer.oracle.setting import Precision, TracedMethod, TracedOptimizer, TraceSetting
from finetune_trainer.oracle.step import Trace

GIB = 2**30
LLAMA_3_8B = dict(KNOWN_MODELS["meta-llama/Meta-Llama-3-8B"])
FULL, LORA, QLORA, FREEZE = TracedMethod.FULL, TracedMethod.LORA, TracedMethod.QLORA, TracedMethod.FREEZE
BF16, AUTOCAST = Precision.BF16, Precision.AUTOCAST


@functools.cache
def traced(setting: TraceSetting) -> Trace:
    """The trace of Llama-3-8B, made once: it takes seconds."""
    return trace_extrapolated(LLAMA_3_8B, setting)


@pytest.mark.parametrize(
    ("setting", "gib"),
    [
        pytest.param(TraceSetting(), 60.13, id="full bf16"),
        pytest.param(TraceSetting(checkpointing=True), 59.85, id="full bf16, checkpointing"),
        pytest.param(TraceSetting(accumulation=2), 75.09, id="full bf16, accumulation"),
        pytest.param(
            TraceSetting(accumulation=2, checkpointing=True), 63.33, id="full bf16, accumulation, checkpointing"
        ),
        pytest.param(TraceSetting(precision=AUTOCAST), 121.50, id="full float32, autocast"),
        pytest.param(
            TraceSetting(precision=AUTOCAST, checkpointing=True), 119.69, id="full float32, autocast, checkpointing"
        ),
        pytest.param(TraceSetting(method=LORA), 29.40, id="lora bf16"),
        pytest.param(TraceSetting(method=LORA, checkpointing=True), 18.66, id="lora bf16, checkpointing"),
        pytest.param(
            TraceSetting(method=LORA, precision=Precision.BF16_FLOAT32_ADAPTERS), 36.40, id="lora float32, no autocast"
        ),
        pytest.param(TraceSetting(method=LORA, precision=AUTOCAST), 31.71, id="lora float32, autocast"),
        pytest.param(
            TraceSetting(method=LORA, precision=AUTOCAST, checkpointing=True), 18.89, id="lora autocast, checkpointing"
        ),
        pytest.param(TraceSetting(method=QLORA), 19.75, id="qlora"),
        pytest.param(TraceSetting(method=QLORA, checkpointing=True), 9.01, id="qlora, checkpointing"),
        pytest.param(TraceSetting(method=FREEZE), 22.27, id="all but two layers frozen"),
        pytest.param(TraceSetting(processes=8, splits_root=False), 23.23, id="fsdp over 8"),
        pytest.param(
            TraceSetting(processes=8, splits_root=False, checkpointing=True), 11.95, id="fsdp over 8, checkpointing"
        ),
    ],
)
def test_the_peak_of_llama_3_8b_is_that_of_the_independent_trace(setting: TraceSetting, gib: float) -> None:
    assert traced(setting).peak / GIB == pytest.approx(gib, abs=0.011)


def test_the_peak_moves_from_the_loss_to_the_end_of_backward_with_checkpointing() -> None:
    assert traced(TraceSetting()).peak_phase is TracedPhase.LOSS_BACKWARD
    assert traced(TraceSetting(checkpointing=True)).peak_phase is TracedPhase.FIRST_LAYER_BACKWARD


def test_foreach_adamw_holds_another_copy_of_the_trained_weights_in_its_step() -> None:
    """torch's multi-tensor AdamW writes the denominator of every parameter before it divides; the fused kernel does not."""

    def step(optimizer: TracedOptimizer) -> Any:
        return traced(TraceSetting(optimizer=optimizer)).phases[TracedPhase.OPTIMIZER_STEP]

    more = step(TracedOptimizer.ADAMW_FOREACH).peak - step(TracedOptimizer.ADAMW_FUSED).peak
    assert more / (2 * 8_030_261_248) == pytest.approx(1, rel=0.01)


def test_categories_of_a_phase_add_up_to_its_peak() -> None:
    for phase, part in traced(TraceSetting(kernel_workspace=False)).phases.items():
        assert sum(part.categories.values()) == pytest.approx(part.peak, rel=1e-6), phase
