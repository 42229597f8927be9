"""What the caching allocator holds idle when steps differ in length and segments cannot grow."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.plan import Component, Phase
from finetune_operator.memory.allocator import LONGER_STEPS, NARROW_LOSS_SHARE, PASSING_SHARE, idle_shares
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import FLOAT32_MASTER, LossKind, Tuning
from finetune_operator.memory.software import Software
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

LORA = Workload(Tuning.LORA, FLOAT32_MASTER, 1, 2048, loss=LossKind.FULL_LOGITS)


def llama() -> Architecture:
    architecture = architecture_of(KNOWN_MODELS["meta-llama/Meta-Llama-3-8B"])
    assert isinstance(architecture, Architecture)
    return architecture


def test_longer_and_longer_steps_leave_their_logits_idle() -> None:
    equal, varied = idle_shares(LORA), idle_shares(replace(LORA, varied_lengths=True))
    assert varied.of(100, 50, 40) > 5 * equal.of(100, 50, 40)
    assert varied.of(100, 50, 40) == round(0.01 * 50 + PASSING_SHARE * 10 + LONGER_STEPS * 40)


def test_a_loss_of_compute_type_logits_outgrows_fewer_blocks() -> None:
    narrow = idle_shares(replace(LORA, varied_lengths=True, software=Software(narrow_loss=True)))
    assert narrow.logits == LONGER_STEPS * NARROW_LOSS_SHARE


def test_kept_activations_are_not_outgrown() -> None:
    kept = idle_shares(replace(LORA, varied_lengths=True, checkpointing=Checkpointing.NONE))
    assert kept.passing == kept.beside_logits == PASSING_SHARE


def test_the_live_bytes_do_not_depend_on_how_lengths_vary() -> None:
    equal, varied = estimate(llama(), LORA), estimate(llama(), replace(LORA, varied_lengths=True))
    assert varied.allocated.expected_bytes == equal.allocated.expected_bytes
    assert varied.reserved.expected_bytes > equal.reserved.expected_bytes


class Created(TorchDispatchMode):
    """Notes name and type of what every operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, torch.dtype] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, (tuple, list)) else result
        if isinstance(first, torch.Tensor):
            self.found[func.overloadpacket.__name__] = first.dtype
        return result


def test_cross_entropy_under_autocast_keeps_a_log_softmax_in_the_type_of_the_logits() -> None:
    with FakeTensorMode():
        logits = torch.empty(7, 50, dtype=torch.bfloat16, device="cuda")
        targets = torch.empty(7, dtype=torch.int64, device="cuda")
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with Created() as created:
                F.cross_entropy(logits, targets)
        finally:
            torch.set_autocast_enabled("cuda", enabled)
            torch.set_autocast_dtype("cuda", dtype)
    assert created.found["_log_softmax"] is torch.bfloat16
    assert created.found["_to_copy"] is torch.float32


def test_a_normalised_head_is_made_anew_in_every_step() -> None:
    model = llama()
    normal = replace(LORA, software=Software(normalises_head=True))
    weights = model.vocabulary * model.hidden

    def logits(workload: Workload) -> int:
        phase = next(phase for phase in estimate(model, workload).phases if phase.phase is Phase.BACKWARD)
        return phase.components[Component.LOGITS]

    assert logits(normal) - logits(LORA) == 2 * weights  # the cast that the backward pass reads
    short, plain = replace(normal, sequence_length=64), replace(LORA, sequence_length=64)
    assert (
        4 * weights < logits(short) - logits(plain) <= 6 * weights
    )  # the float32 copy beside it is higher than few logits


def test_an_emptied_cache_leaves_one_steps_holes() -> None:
    plain = replace(LORA, checkpointing=Checkpointing.NONE)
    emptied = replace(plain, software=Software(empties_cache=True))
    assert idle_shares(emptied).passing < idle_shares(plain).passing
    assert estimate(llama(), emptied).allocated == estimate(llama(), plain).allocated


def test_a_cast_of_the_head_is_not_outgrown_by_longer_steps() -> None:
    model, plain = llama(), replace(LORA, varied_lengths=True)
    normal = replace(plain, software=Software(normalises_head=True))
    more = estimate(model, normal).reserved.expected_bytes - estimate(model, plain).reserved.expected_bytes
    cast = 2 * model.vocabulary * model.hidden
    assert cast <= more < 1.1 * cast
