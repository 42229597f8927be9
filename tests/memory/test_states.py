"""States of whole models: formulas that others published, and the properties that any way to spread states must have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.plan import GIB, Component, Phase
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import (
    BF16_FLOAT32_MOMENTS,
    FLOAT32,
    FLOAT32_MASTER,
    PURE_BF16,
    Goal,
    LossKind,
    Numerics,
    Optimizer,
    Quantization,
    Tuning,
)
from finetune_operator.memory.software import Software
from finetune_operator.memory.states import States, base_weight_bytes, host_load_bytes, states_of
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


LLAMA_3_8B = known("meta-llama/Meta-Llama-3-8B")
P = LLAMA_3_8B.parameters


def full(**more: Any) -> Workload:
    return replace(Workload(Tuning.FULL, FLOAT32_MASTER, 1, 2048), **more)


def held(states: States) -> int:
    return states.resident_weights + states.gradients + states.optimizer


@pytest.mark.parametrize(
    ("numerics", "bytes_per_parameter"),
    [(PURE_BF16, 8), (BF16_FLOAT32_MOMENTS, 12), (FLOAT32_MASTER, 16), (FLOAT32, 16)],
)
def test_full_training_takes_the_known_bytes_per_parameter(numerics: Numerics, bytes_per_parameter: int) -> None:
    assert held(states_of(LLAMA_3_8B, full(numerics=numerics))) == bytes_per_parameter * P


def test_foreach_adamw_needs_one_moment_more_inside_the_step() -> None:
    """Pure bf16: 10 bytes per parameter. Mistral-7B took 67.46 GiB allocated so (fms-acceleration, a100_80gb.csv), which is 10 × 7.24e9."""
    memory = estimate(LLAMA_3_8B, full(numerics=PURE_BF16, optimizer=Optimizer.ADAMW_FOREACH, sequence_length=8))
    step = next(phase for phase in memory.phases if phase.phase is Phase.OPTIMIZER_STEP)
    assert sum(step.components[c] for c in (Component.WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER)) == 8 * P
    assert step.components[Component.TEMPORARIES] == 2 * P


def test_eight_bit_moments_take_two_bytes_and_scales_but_embeddings_keep_32_bits() -> None:
    states = states_of(LLAMA_3_8B, full(optimizer=Optimizer.ADAMW_8BIT))
    embedding = LLAMA_3_8B.vocabulary * LLAMA_3_8B.hidden
    assert states.optimizer == pytest.approx(8 * embedding + (2 + 8 / 256) * (P - embedding), rel=1e-3)


def test_paged_moments_count_as_host_memory_except_those_of_small_tensors() -> None:
    states = states_of(LLAMA_3_8B, full(optimizer=Optimizer.PAGED_ADAMW))
    assert states.optimizer + states.host == 8 * P
    assert states.optimizer < 0.001 * states.host


def test_accumulation_with_fsdp_holds_whole_gradients_unless_every_batch_is_synchronised() -> None:
    workload = full(strategy=Strategy.FSDP, processes=8, accumulation=4)
    assert states_of(LLAMA_3_8B, workload).accumulated_gradients == 2 * P
    assert states_of(LLAMA_3_8B, replace(workload, syncs_every_batch=True)).accumulated_gradients == -(-4 * P // 8)


def test_offload_moves_states_to_the_host() -> None:
    for strategy, offload in (
        (Strategy.ZERO2, Offload.OPTIMIZER),
        (Strategy.ZERO3, Offload.PARAMETERS),
        (Strategy.FSDP, Offload.PARAMETERS),
    ):
        plain = states_of(LLAMA_3_8B, full(strategy=strategy, processes=8))
        moved = states_of(LLAMA_3_8B, full(strategy=strategy, processes=8, offload=offload))
        assert plain.host == moved.optimizer == moved.gradients == 0
        # DeepSpeed copies weights and gradients in bfloat16 to the host first.
        copies = 4 * plain.trainable // 8 if strategy is Strategy.ZERO2 else 0
        assert moved.host + held(moved) <= held(plain) + copies
    assert moved.resident_weights == 0


def test_swapped_states_are_on_local_disk_and_some_of_them_in_buffers() -> None:
    zero3 = full(strategy=Strategy.ZERO3, processes=8)
    moved = states_of(LLAMA_3_8B, replace(zero3, offload=Offload.OPTIMIZER))
    swapped = states_of(LLAMA_3_8B, replace(zero3, offload=Offload.NVME))
    assert moved.disk == 0
    assert swapped.disk == 16 * P // 8
    assert swapped.resident_weights == moved.resident_weights
    # 2 bytes of each gradient, and seven times 100 million float32 with the embedding's and the head's share.
    outer = 2 * LLAMA_3_8B.vocabulary * LLAMA_3_8B.hidden
    assert swapped.host == pytest.approx(2 * P / 8 + 7 * 4 * (1e8 + outer / 8), rel=0.01)
    tiny = states_of(LLAMA_3_8B, replace(zero3, processes=4096, offload=Offload.NVME))
    assert tiny.gradients <= 4 * P // 4096 + 1


def test_full_dpo_holds_a_frozen_copy_unless_its_log_probabilities_are_precomputed() -> None:
    alone = states_of(LLAMA_3_8B, full())
    dpo = states_of(LLAMA_3_8B, full(goal=Goal.DPO))
    assert (
        dpo.resident_weights - alone.resident_weights == alone.resident_weights
    )  # of the policy's type (TRL 1.16, dpo_trainer.py)
    precomputed = states_of(LLAMA_3_8B, full(goal=Goal.DPO, precomputed_reference=True))
    assert precomputed.resident_weights == alone.resident_weights
    adapters = Workload(Tuning.LORA, FLOAT32_MASTER, 1, 1)
    assert states_of(LLAMA_3_8B, replace(adapters, goal=Goal.DPO)) == states_of(LLAMA_3_8B, adapters)


def test_a_reward_model_has_one_output_in_the_place_of_the_head() -> None:
    states = states_of(LLAMA_3_8B, full(goal=Goal.REWARD))
    assert states.trainable == P - LLAMA_3_8B.vocabulary * LLAMA_3_8B.hidden + LLAMA_3_8B.hidden


def test_gptq_takes_16_bits_and_4_bits_per_group_beside_4_bits_per_weight() -> None:
    """Mistral-7B GPTQ with float32 adapters: 4.04 GiB between steps (fms-acceleration); the closed form says 4.02."""
    mistral = known("mistralai/Mistral-7B-v0.1")
    lora = Workload(
        Tuning.LORA,
        replace(PURE_BF16, trained=4),
        1,
        1,
        targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        quantization=Quantization.INT4_GROUPED,
    )
    states = states_of(mistral, lora)
    assert (states.resident_weights + states.optimizer) / GIB == pytest.approx(4.039, rel=0.01)


def test_experts_stay_in_the_base_type_when_linear_layers_are_quantised() -> None:
    mixtral = known("mistralai/Mixtral-8x7B-v0.1")
    workload = Workload(Tuning.LORA, PURE_BF16, 1, 1, quantization=Quantization.NF4)
    assert base_weight_bytes(mixtral, workload) > 0.95 * 2 * mixtral.parameters


def test_frozen_layers_under_fsdp_1_keep_inputs_and_gradients_with_reentrant_checkpoints() -> None:
    """2 L - 3 tensors of tokens × hidden; 80 layers: 156 h bytes per token more than one process (Llama-2-70B, fms-acceleration)."""
    workload = Workload(
        Tuning.LORA, PURE_BF16, 2, 4096, strategy=Strategy.FSDP, processes=2, flat_parameters=True,
        software=Software(reentrant_checkpoints=True),
    )  # fmt: skip
    states = states_of(LLAMA_3_8B, workload)
    assert states.retained_inputs == (2 * 32 - 3) * 2 * 4096 * 2 * 4096
    assert states_of(LLAMA_3_8B, replace(workload, flat_parameters=False)).retained_inputs == 0
    assert states_of(LLAMA_3_8B, replace(workload, checkpointing=Checkpointing.NONE)).retained_inputs == 0


def test_efficient_loading_reads_the_weights_once_per_pod() -> None:
    workload = full(strategy=Strategy.FSDP, processes=8)
    assert host_load_bytes(LLAMA_3_8B, workload, 8) == 8 * 4 * P
    assert host_load_bytes(LLAMA_3_8B, replace(workload, efficient_loading=True), 8) == 4 * P


def test_phases_beside_the_steps_appear_only_where_a_run_has_them() -> None:
    def phases(workload: Workload) -> set[Phase]:
        return {phase.phase for phase in estimate(LLAMA_3_8B, workload).phases} - set(list(Phase)[:4])

    assert phases(full()) == set()
    assert phases(full(strategy=Strategy.FSDP, processes=2)) == {Phase.SAVE}
    assert phases(full(evaluation_batch=8, goal=Goal.GRPO)) == {Phase.EVALUATION, Phase.GENERATION}


def test_an_evaluation_batch_holds_logits_and_their_float32_copies() -> None:
    memory = estimate(LLAMA_3_8B, full(evaluation_batch=8, loss=LossKind.FULL_LOGITS))
    evaluation = next(phase for phase in memory.phases if phase.phase is Phase.EVALUATION)
    assert evaluation.components[Component.LOGITS] == 10 * LLAMA_3_8B.vocabulary * 8 * 2048


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    strategy = draw(st.sampled_from(list(Strategy)))
    tuning = draw(st.sampled_from(list(Tuning)))
    adapts = tuning not in (Tuning.FULL, Tuning.FREEZE, Tuning.SPECTRUM)
    return Workload(
        tuning=tuning,
        numerics=draw(st.sampled_from([PURE_BF16, FLOAT32_MASTER, FLOAT32, BF16_FLOAT32_MOMENTS])),
        micro_batch=1,
        sequence_length=128,
        accumulation=draw(st.integers(1, 2)),
        strategy=strategy,
        processes=1 if strategy is Strategy.SINGLE else draw(st.integers(2, 64)),
        rank=draw(st.integers(1, 64)),
        quantization=draw(st.sampled_from(list(Quantization))) if adapts else Quantization.NONE,
        optimizer=draw(st.sampled_from(list(Optimizer))),
        offload=draw(st.sampled_from(list(Offload))),
        goal=draw(st.sampled_from(list(Goal))),
        reshards=draw(st.booleans()),
        flat_parameters=draw(st.booleans()),
        trained_layers=draw(st.integers(0, 40)),
        trained_fraction=draw(st.floats(0.05, 1)),
        trained_embeddings=draw(st.booleans()),
        trained_parameters=draw(st.integers(1, 10**8)),
        upcasts_rest=draw(st.booleans()),
    )


@settings(deadline=None)
@given(workloads(), st.sampled_from(["meta-llama/Meta-Llama-3-8B", "google/gemma-2-2b", "openai-community/gpt2"]))
def test_no_state_is_negative_and_more_processes_never_hold_more(workload: Workload, name: str) -> None:
    architecture = known(name)
    states = states_of(architecture, workload)
    assert all(getattr(states, field) >= 0 for field in States.__slots__)
    if workload.strategy is not Strategy.SINGLE:
        wider = states_of(architecture, replace(workload, processes=2 * workload.processes))
        assert held(wider) + wider.host <= held(states) + states.host
