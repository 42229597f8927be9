"""Losses of older transformers: which copies of the logits exist at once, and what a model returns beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.memory.activations.head import head_profile
from finetune_operator.memory.activations.mode import layer_mode
from finetune_operator.memory.activations.model import passes
from finetune_operator.memory.activations.model_head import head_mode, output_head
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.kinds import FLOAT32_MASTER, PURE_BF16, LossKind, Quantization, Tuning
from finetune_operator.memory.software import Software
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

LORA = Workload(Tuning.LORA, PURE_BF16, 2, 512)
SHIFTS = Software(shifts_logits=True)
BESIDE = Software(shifts_logits=True, keeps_narrow_logits=True)
OWN = Software(shifts_logits=True, unwidened_logits=True)
WHOLE, FUSED = LossKind.FULL_LOGITS, LossKind.FUSED_LOGITS


def known(name: str) -> Architecture:
    architecture = architecture_of(KNOWN_MODELS[name])
    assert isinstance(architecture, Architecture)
    return architecture


LLAMA, SANTACODER = known("meta-llama/Meta-Llama-3-8B"), known("bigcode/gpt_bigcode-santacoder")


@pytest.mark.parametrize(
    ("software", "loss", "bytes_per_logit"),
    [
        (SHIFTS, WHOLE, 4 + 4 + 4),
        (SHIFTS, FUSED, 4 + 4),
        # Measured to 0.1 % in fms-acceleration's table (Mistral-7B, transformers 4.48): 14 and 10 bytes.
        (BESIDE, WHOLE, 2 + 4 + 4 + 4),
        (BESIDE, FUSED, 2 + 4 + 4),
        # The same table, SantaCoder trained whole in bfloat16: 6 and 4 bytes.
        (OWN, WHOLE, 2 + 2 + 2),
        (OWN, FUSED, 2 + 2),
    ],
)
def test_logits_exist_as_often_as_the_loss_of_a_version_copies_them(
    software: Software, loss: LossKind, bytes_per_logit: int
) -> None:
    workload = replace(LORA, loss=loss, software=software)
    head = replace(output_head(LLAMA, workload), hidden=8, vocabulary=1_000_000)
    mode = head_mode(layer_mode(workload, trains_weights=False, input_differentiable=True))
    profile = head_profile(head, mode, loss)
    highest = max(point.token for point in (*profile.forward, *profile.backward))
    assert highest / head.vocabulary == pytest.approx(bytes_per_logit, rel=0.001)


def test_a_part_of_a_joined_projection_keeps_the_whole_output() -> None:
    joined = torch.zeros(4, 96)
    _, key_value = joined.split((64, 32), dim=1)
    assert key_value.untyped_storage().nbytes() == joined.untyped_storage().nbytes()


def test_a_model_that_returns_keys_and_values_holds_joined_projections_of_all_layers_while_it_runs_forwards() -> None:
    returning = replace(LORA, software=Software(returns_cache=True))
    attention = SANTACODER.main_block.attention
    width = attention.query_width + attention.key_width + attention.value_width
    assert width == 2048 + 2 * 128
    assert passes(SANTACODER, returning).earlier.token == 24 * 2 * width
    assert passes(SANTACODER, LORA).earlier.token == 0
    # Without checkpointing attention keeps the same storage for its backward pass.
    assert passes(SANTACODER, replace(returning, checkpointing=Checkpointing.NONE)).earlier.token == 0


def test_four_bit_modules_behind_a_layer_norm_widen_the_stream_under_autocast() -> None:
    qlora = replace(LORA, numerics=FLOAT32_MASTER, quantization=Quantization.NF4_DOUBLE)
    assert passes(SANTACODER, qlora).stream == 4 * SANTACODER.hidden
    assert passes(SANTACODER, replace(qlora, numerics=PURE_BF16)).stream == 2 * SANTACODER.hidden
    assert passes(SANTACODER, replace(qlora, quantization=Quantization.NONE)).stream == 2 * SANTACODER.hidden
    assert passes(LLAMA, qlora).stream == 2 * LLAMA.hidden
