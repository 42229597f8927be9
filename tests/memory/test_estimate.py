"""The closed form against fake-tensor traces, and the properties that any memory estimate must have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import GIB, Component, MemoryEstimate, Phase
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import FLOAT32, FLOAT32_MASTER, PURE_BF16, LossKind, Numerics, Quantization, Tuning
from finetune_operator.memory.states import NF4_BITS, base_weight_bytes, states_of
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

NONE, FULL = Checkpointing.NONE, Checkpointing.FULL


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


LLAMA_3_8B = known("meta-llama/Meta-Llama-3-8B")
LLAMA_70B = known("meta-llama/Llama-3.1-70B")
ARCHITECTURES = [
    known(name)
    for name in ("HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen3-0.6B", "openai-community/gpt2", "google/gemma-2-2b")
]


METHODS: dict[Method, dict[str, Any]] = {
    Method.FULL: {"tuning": Tuning.FULL},
    Method.LORA: {"tuning": Tuning.LORA},
    Method.QLORA: {"tuning": Tuning.LORA, "quantization": Quantization.NF4_DOUBLE},
}


def traced_workload(method: Method, numerics: Numerics, checkpointing: Checkpointing, **more: Any) -> Workload:
    """What the traces ran: one sequence of 2,048 tokens with transformers' own loss."""
    base = Workload(
        **METHODS[method],
        numerics=numerics,
        micro_batch=1,
        sequence_length=2048,
        checkpointing=checkpointing,
        loss=LossKind.FULL_LOGITS,
    )
    return replace(base, **more)


@pytest.mark.parametrize(
    ("method", "numerics", "more", "without_checkpointing", "with_checkpointing", "tolerance"),
    [
        pytest.param(Method.FULL, PURE_BF16, {}, 60.13, 59.85, 0.005, id="full bf16"),
        pytest.param(Method.FULL, PURE_BF16, {"accumulation": 2}, 75.09, 63.33, 0.005, id="full bf16, accumulation"),
        pytest.param(Method.FULL, FLOAT32_MASTER, {}, 121.50, 119.69, 0.01, id="full float32 with autocast"),
        pytest.param(Method.LORA, PURE_BF16, {}, 29.40, 18.66, 0.005, id="lora bf16"),
        pytest.param(Method.LORA, FLOAT32_MASTER, {}, 31.71, 18.89, 0.005, id="lora float32 with autocast"),
        pytest.param(Method.QLORA, PURE_BF16, {}, 19.75, 9.01, 0.005, id="qlora"),
        pytest.param(
            Method.FULL, PURE_BF16, {"strategy": Strategy.FSDP, "processes": 8}, 23.23, 11.95, 0.02, id="fsdp over 8"
        ),
    ],
)
def test_llama_3_8b_agrees_with_the_fake_tensor_trace(
    method: Method,
    numerics: Numerics,
    more: dict[str, Any],
    without_checkpointing: float,
    with_checkpointing: float,
    tolerance: float,
) -> None:
    """Traced allocated GiB of Llama-3-8B, b=1, s=2048: knowledge of the project (torch 2.13, transformers 5.23)."""
    for checkpointing, traced in ((NONE, without_checkpointing), (FULL, with_checkpointing)):
        workload = traced_workload(method, numerics, checkpointing, **more)
        found = estimate(LLAMA_3_8B, workload).allocated.expected_bytes
        assert found / GIB == pytest.approx(traced, rel=tolerance)


@pytest.mark.parametrize(("method", "traced"), [(Method.LORA, 138.07), (Method.QLORA, 43.46)])
def test_a_70b_adapter_run_with_checkpointing_agrees_with_the_trace(method: Method, traced: float) -> None:
    found = estimate(LLAMA_70B, traced_workload(method, PURE_BF16, FULL)).allocated.expected_bytes
    assert found / GIB == pytest.approx(traced, rel=0.005)


def test_states_of_full_training_take_16_bytes_per_parameter() -> None:
    """A model of ten billion parameters: 160 GB (10^9), weights, gradients and two moments in float32."""
    workload = Workload(Tuning.FULL, FLOAT32_MASTER, 1, 1)
    states = states_of(LLAMA_3_8B, workload)
    per_parameter = (states.resident_weights + states.gradients + states.optimizer) / LLAMA_3_8B.parameters
    assert per_parameter * 10e9 == 160e9


def test_nf4_with_double_quantisation_takes_4_127_bits_per_weight() -> None:
    assert pytest.approx(4.127, abs=0.0005) == NF4_BITS
    workload = Workload(Tuning.LORA, PURE_BF16, 1, 1, quantization=Quantization.NF4_DOUBLE)
    rest = LLAMA_3_8B.parameters - LLAMA_3_8B.linear_parameters
    quantised = base_weight_bytes(LLAMA_3_8B, workload) - 2 * rest
    assert 8 * quantised / LLAMA_3_8B.linear_parameters == pytest.approx(NF4_BITS)


@pytest.mark.parametrize(
    ("strategy", "resident_bytes_per_parameter"),
    [(Strategy.ZERO1, 2 + 2 + 12 / 8), (Strategy.ZERO2, 2 + 2 / 8 + 12 / 8)],
)
def test_zero_states_follow_the_paper(strategy: Strategy, resident_bytes_per_parameter: float) -> None:
    """Bytes between steps over 8 processes; the float32 copy of the gradients, which exists only in the step, is taken off."""
    states = states_of(LLAMA_3_8B, Workload(Tuning.FULL, FLOAT32_MASTER, 1, 1, strategy=strategy, processes=8))
    widened = 4 * LLAMA_3_8B.parameters / 8
    found = states.resident_weights + states.gradients + states.optimizer - widened
    assert found / LLAMA_3_8B.parameters == pytest.approx(resident_bytes_per_parameter, rel=1e-6)


def test_the_cpu_estimate_starts_from_the_interpreter_and_its_libraries() -> None:
    tiny = architecture_of(
        {**KNOWN_MODELS["HuggingFaceTB/SmolLM2-135M"], "num_hidden_layers": 1, "hidden_size": 72, "vocab_size": 256}
    )
    assert isinstance(tiny, Architecture)
    memory = estimate(tiny, Workload(Tuning.FULL, FLOAT32, 1, 16, accelerator="cpu"))
    assert 0.98 < memory.expected_bytes / GIB < 1.1


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    strategy = draw(st.sampled_from(list(Strategy)))
    method = draw(st.sampled_from(list(METHODS)))
    numerics = PURE_BF16 if method is Method.QLORA else draw(st.sampled_from([FLOAT32_MASTER, FLOAT32]))
    return Workload(
        **METHODS[method],
        numerics=numerics,
        micro_batch=draw(st.integers(1, 32)),
        sequence_length=draw(st.integers(8, 8192)),
        accumulation=draw(st.integers(1, 8)),
        strategy=strategy,
        processes=1 if strategy is Strategy.SINGLE else draw(st.integers(2, 64)),
        checkpointing=draw(st.sampled_from(list(Checkpointing))),
        rank=draw(st.integers(1, 256)),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        accelerator=draw(st.sampled_from(["gpu", "cpu"])),
    )


architectures = st.sampled_from(ARCHITECTURES)


def peak(architecture: Architecture, workload: Workload) -> int:
    return estimate(architecture, workload).expected_bytes


@settings(deadline=None)
@given(architectures, workloads())
def test_the_peak_is_the_highest_phase_and_a_phase_the_sum_of_its_components(
    architecture: Architecture, workload: Workload
) -> None:
    memory = estimate(architecture, workload)
    found = [phase.phase for phase in memory.phases]
    assert found == [phase for phase in Phase if phase in found]
    assert found[:4] == [Phase.LOAD, Phase.BACKWARD, Phase.BACKWARD_END, Phase.OPTIMIZER_STEP]
    assert all(phase.total == sum(phase.components.values()) for phase in memory.phases)
    assert all(size >= 0 for phase in memory.phases for size in phase.components.values())
    assert memory.expected_bytes == max(phase.total for phase in memory.phases)
    assert memory.expected_bytes < memory.upper_bytes
    assert MemoryEstimate.model_validate(memory.to_json_dict()) == memory


@settings(deadline=None)
@given(architectures, workloads(), st.integers(1, 16))
def test_more_sequences_never_need_less(architecture: Architecture, workload: Workload, more: int) -> None:
    assert peak(architecture, workload) <= peak(
        architecture, replace(workload, micro_batch=workload.micro_batch + more)
    )


@settings(deadline=None)
@given(architectures, workloads(), st.integers(1, 4096))
def test_longer_sequences_never_need_less(architecture: Architecture, workload: Workload, more: int) -> None:
    longer = replace(workload, sequence_length=workload.sequence_length + more)
    assert peak(architecture, workload) <= peak(architecture, longer)


@settings(deadline=None)
@given(architectures, workloads(), st.integers(1, 64))
def test_a_higher_rank_never_needs_less(architecture: Architecture, workload: Workload, more: int) -> None:
    assert peak(architecture, workload) <= peak(architecture, replace(workload, rank=workload.rank + more))


@settings(deadline=None)
@given(architectures, workloads(), st.integers(1, 64))
def test_sharding_over_more_processes_never_holds_more_and_needs_more_only_for_what_is_padded_when_it_is_gathered(
    architecture: Architecture, workload: Workload, more: int
) -> None:
    """Seven processes gather a tensor of eight rows as fourteen, six as twelve: what FSDP 2 does (states/padding.py)."""
    wider = replace(workload, processes=workload.processes + more)
    if workload.strategy is Strategy.SINGLE:
        wider = workload
    narrow_states, wide_states = states_of(architecture, workload), states_of(architecture, wider)
    for kept in ("resident_weights", "gradients", "optimizer", "buckets"):
        assert getattr(wide_states, kept) <= getattr(narrow_states, kept)
    narrow, wide = (2 * found.layer_weights + found.layer_reduction for found in (narrow_states, wide_states))
    assert peak(architecture, wider) <= peak(architecture, workload) + 1.2 * max(0, wide - narrow)


@settings(deadline=None)
@given(architectures, workloads())
def test_checkpointing_keeps_fewer_activations(architecture: Architecture, workload: Workload) -> None:
    def kept(checkpointing: Checkpointing) -> int:
        phases = estimate(architecture, replace(workload, checkpointing=checkpointing)).phases
        return next(p.components[Component.ACTIVATIONS] for p in phases if p.phase is Phase.BACKWARD)

    assert kept(FULL) <= kept(NONE)


@pytest.mark.parametrize(("method", "measured_gib"), [(Method.LORA, 2.715), (Method.FULL, 2.675)])
def test_a_measured_cpu_run_lies_near_the_expected_and_below_the_upper_memory(
    method: Method, measured_gib: float
) -> None:
    """VmHWM of three SFTTrainer steps in float32, 8 × 256 tokens, measured on this project's machine (torch 2.13, trl 1.16, glibc's malloc)."""
    small = architecture_of(
        {
            "model_type": "llama",
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 8192,
        }
    )
    assert isinstance(small, Architecture)
    memory = estimate(
        small,
        Workload(
            **METHODS[method],
            numerics=FLOAT32,
            micro_batch=8,
            sequence_length=256,
            checkpointing=NONE,
            accelerator="cpu",
        ),
    )
    assert memory.expected_bytes / GIB == pytest.approx(measured_gib, rel=0.12)
    assert memory.upper_bytes / GIB > measured_gib
