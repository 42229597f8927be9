"""Habits of other training programs that their published runs show: each as torch does it on the CPU, or as the closed form must count it."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from finetune_operator.api.compatibility import Checkpointing
from finetune_operator.api.plan import Component, Phase
from finetune_operator.memory.activations.head import OutputHead, head_profile
from finetune_operator.memory.activations.linear import linear, product
from finetune_operator.memory.activations.mode import layer_mode
from finetune_operator.memory.activations.model import passes
from finetune_operator.memory.activations.model_head import head_mode
from finetune_operator.memory.activations.profile import Profile
from finetune_operator.memory.activations.size import Size
from finetune_operator.memory.activations.tape import Tape
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.blocks import NormKind
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.kinds import PURE_BF16, LossKind, Numerics, Quantization, Tuning
from finetune_operator.memory.software import Software
from finetune_operator.memory.states import base_weight_bytes
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

INPUTS, OUTPUTS, TOKENS = 64, 32, 16
OLD_BITSANDBYTES = Software(quantized_inputs_kept=True)
QLORA = Workload(
    Tuning.LORA,
    PURE_BF16,
    1,
    512,
    checkpointing=Checkpointing.NONE,
    quantization=Quantization.NF4,
    loss=LossKind.HELD_CHUNKS,
    software=OLD_BITSANDBYTES,
)


def llama() -> Architecture:
    architecture = architecture_of(KNOWN_MODELS["meta-llama/Meta-Llama-3-8B"])
    assert isinstance(architecture, Architecture)
    return architecture


class AttributeKeeper(torch.autograd.Function):
    """Keeps its input as bitsandbytes' MatMul4Bit did before 0.43.2: as an attribute, not by save_for_backward."""

    @staticmethod
    def forward(ctx, value):
        ctx.tensors = (value,)
        return value * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_torch_frees_a_node_s_attributes_with_the_graph_and_not_when_it_has_run_backwards() -> None:
    leaf = torch.ones(4, requires_grad=True)
    inner = leaf * 3
    kept = weakref.ref(inner)
    loss = AttributeKeeper.apply(inner).sum()
    del inner
    loss.backward()
    assert kept() is not None
    del loss
    assert kept() is None


def test_what_a_node_holds_stays_to_the_end_of_the_backward_pass() -> None:
    def last_point(**saved: tuple) -> int:
        tape = Tape()
        source = tape.tensor(Size(8), 2, differentiable=True)
        inner = tape.apply((source,), Size(6), 2)
        profile = tape.profile(tape.apply((inner,), Size(2), 2, **{name: (inner,) for name in saved}))
        assert profile.kept == Size(6)
        assert profile.held == (Size(6) if "holds" in saved else Size())
        return max(point.token for point in profile.backward)

    # Released, the input makes room for the gradient of the programme's own input; held, it stays beside it.
    assert last_point(saves=()) == 6 + 2 + 6
    assert last_point(holds=()) == 6 + 6 + 8


def test_a_loop_that_keeps_its_loss_has_the_inputs_of_two_micro_batches() -> None:
    architecture = llama()
    keeping = replace(QLORA, software=replace(OLD_BITSANDBYTES, keeps_graph=True))
    held = sum(
        segment.copies * segment.profile.held.of(QLORA.tokens, 0) for segment in passes(architecture, QLORA).segments
    )
    attention = architecture.main_block.attention
    width = architecture.main_block.feed_forward.width
    # Inputs of query, key and value together, of the output projection, of gate and up, of the down projection.
    per_token = 2 * (architecture.hidden + attention.query_width + architecture.hidden + width)
    # The first layer's own input needs no gradient, so that its projections keep nothing.
    assert held == (architecture.layers * per_token - 2 * architecture.hidden) * QLORA.tokens
    freed, kept = (estimate(architecture, workload).allocated.expected_bytes for workload in (QLORA, keeping))
    assert kept - freed == pytest.approx(held, rel=0.3)


def test_inputs_of_layers_that_are_computed_again_are_gone_with_their_inner_graph() -> None:
    checkpointed = replace(
        QLORA, checkpointing=Checkpointing.FULL, software=replace(OLD_BITSANDBYTES, keeps_graph=True)
    )
    earlier = passes(llama(), checkpointed).earlier
    assert earlier.token == 4 * llama().vocabulary


def test_held_chunks_of_logits_need_eight_bytes_each_and_ten_where_the_last_list_is_still_there() -> None:
    def highest(software: Software) -> int:
        mode = head_mode(layer_mode(replace(QLORA, software=software), trains_weights=False, input_differentiable=True))
        head = OutputHead(hidden=8, vocabulary=1_000_000, norm=NormKind.RMS)
        profile = head_profile(head, mode, LossKind.HELD_CHUNKS)
        # What is left of the micro-batch before is there while this one runs forwards.
        earlier = profile.held.token if software.keeps_graph else 0
        forward = max(point.token + earlier for point in profile.forward)
        return max(forward, *(point.token for point in profile.backward))

    assert highest(Software()) == pytest.approx(8e6, rel=0.001)
    assert highest(Software(keeps_graph=True)) == pytest.approx(10e6, rel=0.001)


def test_a_quantised_head_is_stored_in_four_bits_and_widened_whole_while_it_runs() -> None:
    architecture = llama()
    quantised = replace(QLORA, software=Software(quantizes_head=True, widens_in_half=True))
    head = architecture.vocabulary * architecture.hidden
    plain = replace(QLORA, software=Software())
    assert base_weight_bytes(architecture, plain) - base_weight_bytes(architecture, quantised) == round(1.4375 * head)
    wide = max(point.fixed for point in passes(architecture, quantised).head.backward)
    # Once in the half precision that it was quantised from, once in the compute type.
    assert wide == (2 + 2) * head


def saved_by_torch(calls: int) -> int:
    """Bytes that a frozen float32 linear under autocast leaves for the backward pass, called `calls` times."""
    linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False).requires_grad_(False)
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for _ in range(calls):
            linear(torch.ones(TOKENS, INPUTS, requires_grad=True))
    saved.pop(linear.weight.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("calls", [1, 3])
def test_autocast_keeps_a_cast_of_a_frozen_float32_weight_for_every_call(calls: int) -> None:
    workload = Workload(Tuning.LORA, Numerics(base=4, trained=4, compute=2, autocast=True), 1, TOKENS)
    mode = layer_mode(workload, trains_weights=False, input_differentiable=True)
    assert mode.stream == 4
    tape = Tape()
    stream = tape.tensor(Size(4 * INPUTS), 4, differentiable=True)
    kept = tape.profile(product(tape, mode, stream, OUTPUTS, trains=False, calls=calls)).kept
    assert kept.of(TOKENS, 0) == saved_by_torch(calls) == calls * 2 * INPUTS * OUTPUTS


def test_four_bit_models_whose_rest_was_made_float32_have_a_float32_stream_under_autocast() -> None:
    autocast = replace(QLORA, numerics=Numerics(base=2, trained=4, compute=2, autocast=True))
    assert passes(llama(), autocast).stream == 2 * llama().hidden
    assert passes(llama(), replace(autocast, upcasts_rest=True)).stream == 4 * llama().hidden


def test_layers_without_an_adapter_below_the_first_one_keep_nothing() -> None:
    bare = passes(llama(), replace(QLORA, software=Software(bare_layers=2))).segments
    assert sum(segment.copies for segment in bare) == llama().layers - 2


FULL = Workload(Tuning.FULL, PURE_BF16, 1, 2048, loss=LossKind.LIGER)


def test_weights_that_are_stepped_inside_backward_never_have_all_their_gradients() -> None:
    architecture = llama()
    stepped = replace(FULL, software=Software(steps_in_backward=True))
    gradients = 2 * architecture.parameters
    found = {phase.phase: phase for phase in estimate(architecture, stepped).phases}
    for phase in (Phase.BACKWARD_END, Phase.OPTIMIZER_STEP):
        assert found[phase].components[Component.GRADIENTS] == 0
    allocated = [estimate(architecture, workload).allocated.expected_bytes for workload in (FULL, stepped)]
    # One layer's gradients at a time, and the activations that all gradients were higher than.
    assert gradients / 2 < allocated[0] - allocated[1] < gradients


def test_offloaded_checkpoints_leave_nothing_of_the_layers_but_one() -> None:
    assert (
        passes(llama(), FULL).kept.token
        - passes(llama(), replace(FULL, software=Software(offloads_activations=True))).kept.token
        == 2 * llama().hidden * llama().layers
    )


@pytest.mark.parametrize(("compiled", "bytes_per_logit"), [(True, 2 + 2 / 8), (False, 2 + 4 + 4 / 8)])
def test_chunks_of_the_output_are_widened_one_at_a_time(compiled: bool, bytes_per_logit: float) -> None:
    workload = Workload(
        Tuning.LORA,
        PURE_BF16,
        2,
        4096,
        loss=LossKind.OUTPUT_CHUNKS,
        software=Software(compiled_loss=compiled),
    )
    logits = llama().vocabulary * workload.tokens
    backward = next(phase for phase in estimate(llama(), workload).phases if phase.phase is Phase.BACKWARD)
    assert backward.components[Component.LOGITS] == pytest.approx(bytes_per_logit * logits, rel=0.06)


def test_logits_that_were_widened_in_their_own_name_are_gone_before_the_shifted_copy_exists() -> None:
    def bytes_per_logit(software: Software) -> float:
        mode = head_mode(layer_mode(replace(QLORA, software=software), trains_weights=False, input_differentiable=True))
        head = OutputHead(hidden=8, vocabulary=1_000_000, norm=NormKind.RMS)
        return max(point.token for point in head_profile(head, mode, LossKind.FUSED_LOGITS).forward) / head.vocabulary

    # float32 and its shifted copy; measured to a hundredth of a GiB in fms-acceleration's table (Llama-3-8B, batches of 8 × 4,096 tokens).
    assert bytes_per_logit(Software(shifts_logits=True)) == pytest.approx(8, rel=0.001)
    # Newer versions widen inside the loss, while the model's own logits are still there.
    assert bytes_per_logit(Software()) == pytest.approx(6, rel=0.001)


def test_a_frozen_first_factor_does_not_keep_the_adapters_input() -> None:
    kept, frozen = (adapted(Software(frozen_inputs=frozen)) for frozen in (False, True))
    assert kept.kept.token - frozen.kept.token == 4 * INPUTS


def test_a_whole_update_is_kept_for_the_inputs_gradient() -> None:
    plain, whole = (adapted(Software(whole_updates=whole)) for whole in (False, True))
    assert whole.kept.fixed - plain.kept.fixed == 4 * INPUTS * OUTPUTS


def adapted(software: Software) -> Profile:
    """Return a linear layer with a float32 adapter on a bfloat16 input."""
    workload = Workload(
        Tuning.LORA, Numerics(2, 4, 2, autocast=False), 1, TOKENS, rank=4, targets=("x",), software=software
    )
    mode, tape = layer_mode(workload, trains_weights=False, input_differentiable=True), Tape()
    value = tape.tensor(Size(2 * INPUTS), 2, differentiable=True)
    return tape.profile(linear(tape, mode, value, "x", OUTPUTS))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_reentrant_checkpoint_holds_the_output_of_the_layer_that_runs_backwards(reentrant: bool) -> None:
    made: list[weakref.ref] = []
    alive: list[bool] = []

    def layer(value: torch.Tensor) -> torch.Tensor:
        inner = value * 3
        if inner.requires_grad:  # the reentrant one's first pass is without gradients
            inner.register_hook(lambda gradient: alive.append(made[-1]() is not None))
        output = inner.sin()
        made.append(weakref.ref(output))
        return output

    torch.utils.checkpoint.checkpoint(
        layer, torch.ones(4, requires_grad=True), use_reentrant=reentrant
    ).sum().backward()
    assert alive[-1] is reentrant


def test_the_held_output_is_one_residual_stream() -> None:
    checkpointed = replace(QLORA, checkpointing=Checkpointing.FULL, loss=LossKind.LIGER, software=Software())
    reentrant = replace(checkpointed, software=Software(reentrant_checkpoints=True))
    plain, held = (
        next(phase for phase in estimate(llama(), workload).phases if phase.phase is Phase.BACKWARD_END)
        for workload in (checkpointed, reentrant)
    )
    assert held.total - plain.total == pytest.approx(2 * llama().hidden * QLORA.tokens, rel=0.15)
