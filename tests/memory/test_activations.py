"""What layers keep and make, as programmes: known sums per token, and the rules of the tape itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.memory.activations.layer import layer_profile
from finetune_operator.memory.activations.mode import layer_mode
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import Size, as_sum, from_sum, highest
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.kinds import FLOAT32_MASTER, PURE_BF16, AttentionKernel, Numerics, Tuning
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

HIDDEN, QUERY, KEY, WIDTH, HEADS, RANK = 4096, 4096, 1024, 14336, 32, 16
FLOAT32_ADAPTERS = Numerics(base=2, trained=4, compute=2, autocast=False)


def llama() -> Architecture:
    architecture = architecture_of(KNOWN_MODELS["meta-llama/Meta-Llama-3-8B"])
    assert isinstance(architecture, Architecture)
    return architecture


def layer_of(workload: Workload) -> Profile:
    mode = layer_mode(workload, trains_weights=workload.trains_base, input_differentiable=True)
    return layer_profile(HIDDEN, llama().main_block, mode)


@pytest.mark.parametrize(
    ("tuning", "numerics", "expected"),
    [
        (Tuning.FULL, PURE_BF16, 16 * HIDDEN + 8 * WIDTH),
        (Tuning.FULL, FLOAT32_MASTER, 26 * HIDDEN + 8 * WIDTH),
        (Tuning.LORA, PURE_BF16, 12 * HIDDEN + 8 * WIDTH + 14 * RANK),
        (Tuning.LORA, FLOAT32_MASTER, 18 * HIDDEN + 2 * QUERY + 8 * WIDTH + 14 * RANK),
    ],
)
def test_a_llama_layer_keeps_the_sum_that_its_formula_says(tuning: Tuning, numerics: Numerics, expected: int) -> None:
    kept = layer_of(Workload(tuning, numerics, 1, 2048)).kept
    assert kept.token == expected + 4 * QUERY + 4 * KEY + 4 * HEADS + 8


def test_float32_adapters_without_autocast_keep_a_float32_copy_of_every_adapted_input() -> None:
    autocast = layer_of(Workload(Tuning.LORA, FLOAT32_MASTER, 1, 2048)).kept
    plain = layer_of(Workload(Tuning.LORA, FLOAT32_ADAPTERS, 1, 2048)).kept
    assert plain.token > autocast.token


def test_eager_attention_keeps_six_bytes_per_head_and_pair_of_tokens() -> None:
    workload = Workload(Tuning.LORA, PURE_BF16, 1, 2048, attention=AttentionKernel.EAGER)
    assert layer_of(workload).kept.pair == 6 * HEADS


def test_gradients_that_exist_already_do_not_grow_in_the_backward_pass() -> None:
    workload = Workload(Tuning.FULL, PURE_BF16, 1, 2048)
    assert layer_of(workload).weight_gradients == 2 * sum(t.total for t in llama().main_block.tensors)
    assert layer_of(replace(workload, accumulation=2)).weight_gradients == 0


def test_a_tensor_that_two_operations_save_is_kept_once_and_until_both_have_run() -> None:
    tape = Tape()
    source = tape.tensor(Size(8), 2, differentiable=True)
    first = tape.apply((source,), Size(8), 2, saves=(source,))
    second = tape.apply((first,), Size(8), 2, saves=(source,))
    profile = tape.profile(second)
    assert profile.kept == Size(8)
    assert max(point.token for point in profile.backward) == 8 + 2 * 8


def test_nothing_is_kept_where_nothing_is_trained() -> None:
    tape = Tape()
    source = tape.tensor(Size(8), 2, differentiable=False)
    assert tape.profile(tape.apply((source,), Size(8), 2, saves=(source,))).kept == Size()


def test_points_that_others_exceed_everywhere_are_left_out() -> None:
    points = [Size(4, 0, 1), Size(3, 0, 1), Size(1, 0, 9), Size(4, 0, 1)]
    assert set(highest(map(as_sum, points))) == {Size(4, 0, 1), Size(1, 0, 9)}


@given(*[st.builds(Size, *[st.integers(0, 2**64)] * 3)] * 2)
def test_sizes_are_added_and_subtracted_as_whole_numbers(one: Size, other: Size) -> None:
    assert from_sum(as_sum(one) + as_sum(other)) == one.plus(other)
    assert from_sum(as_sum(one.plus(other)) - as_sum(other)) == one
