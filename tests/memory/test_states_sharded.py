"""What FSDP really holds on one rank, in one process: a fake process group moves no data, but allocates what a real one does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.kinds import FLOAT32, FLOAT32_MASTER, Quantization, Tuning
from finetune_operator.memory.states import states_of
from finetune_operator.memory.states.quantization import scale_bytes
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.known_models import KNOWN_MODELS

HIDDEN, TOKENS, LAYERS, RANKS = 32, 128, 6, 4


@pytest.fixture(scope="module")
def ranks() -> Iterator[None]:
    """This process as rank 0 of four."""
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def layers(*, frozen: bool) -> Any:
    """Linear layers with a residual; frozen ones carry a small adapter."""
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Linear(HIDDEN, HIDDEN, bias=False)
            self.adapter = nn.Linear(HIDDEN, HIDDEN, bias=False) if frozen else None
            if frozen:
                self.weight.requires_grad_(False)

        def forward(self, hidden: Any) -> Any:
            added = self.weight(hidden)
            if self.adapter is not None:
                added = added + self.adapter(hidden)
            return hidden + torch.relu(added)

    class Model(nn.Module):
        reentrant = True

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

        def forward(self, hidden: Any) -> Any:
            for layer in self.layers:
                hidden = checkpoint(layer.__call__, hidden, use_reentrant=self.reentrant)
            return hidden.sum()

    return Model()


def activations_at_the_end_of_backward(model: Any) -> int:
    """Return how many storages of activation size are alive when the input's gradient arrives."""
    import torch

    found: list[int] = []

    def count(_gradient: Any) -> None:
        addresses = set()
        for item in gc.get_objects():
            # type(), not isinstance: proxies of other tests in this process answer to that.
            if type(item) is torch.Tensor and item.numel() == TOKENS * HIDDEN:
                addresses.add(item.untyped_storage().data_ptr())
                if item.is_leaf and item.grad is not None:
                    addresses.add(item.grad.untyped_storage().data_ptr())
        found.append(len(addresses))

    gc.collect()
    hidden = torch.randn(1, TOKENS, HIDDEN, requires_grad=True)
    hidden.register_hook(count)
    model(hidden).backward()
    return found[-1]


def flat(model: Any) -> Any:
    """FSDP 1 with a unit per layer, and units of their own for trained weights."""
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

    own = {id(layer) for layer in model.layers} | {id(layer.adapter) for layer in model.layers}
    policy = partial(lambda_auto_wrap_policy, lambda_fn=lambda module: id(module) in own)
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_fsdp_1_keeps_input_and_gradient_of_every_frozen_layer_only_with_reentrant_checkpoints(
    ranks: None, *, reentrant: bool
) -> None:
    """States.retained_inputs: 2 L - 3 of them beside the first layer's own input and the gradient that arrives there."""
    alone = layers(frozen=True)
    alone.reentrant = reentrant
    base = activations_at_the_end_of_backward(alone)
    sharded = layers(frozen=True)
    sharded.reentrant = reentrant
    found = activations_at_the_end_of_backward(flat(sharded))
    assert found - base == (2 * LAYERS - 2 if reentrant else 0)


def fully_sharded(model: Any) -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def gradient_bytes(model: Any) -> int:
    """Return the bytes of gradients on this rank: sharded ones, and whole ones that wait for the last micro-batch."""
    total = 0
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", None)
        group = state()._fsdp_param_group if state is not None else None
        for parameter in group.fsdp_params if group is not None else ():
            whole = parameter.unsharded_accumulated_grad
            unsharded = parameter._unsharded_param.grad if hasattr(parameter, "_unsharded_param") else None
            for gradient in (whole, unsharded, parameter.sharded_param.grad):
                if gradient is not None:
                    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
                    total += local.nbytes
    return total


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_fsdp_2_holds_whole_gradients_in_the_compute_type_while_it_accumulates(ranks: None) -> None:
    """What accelerate's no_sync does to FSDP 2 (set_requires_gradient_sync); the last micro-batch leaves a share in the master's type."""
    import torch

    model = fully_sharded(layers(frozen=False))
    model.reentrant = False
    parameters = LAYERS * HIDDEN * HIDDEN
    model.set_requires_gradient_sync(False)
    model(torch.randn(1, TOKENS, HIDDEN)).backward()
    assert gradient_bytes(model) == 2 * parameters
    model.set_requires_gradient_sync(True)
    model(torch.randn(1, TOKENS, HIDDEN)).backward()
    assert gradient_bytes(model) == 4 * parameters // RANKS


@pytest.mark.parametrize("experts", [4, 3, 2])
def test_experts_that_the_processes_do_not_divide_are_padded(ranks: None, experts: int) -> None:
    """Three experts are four with padding: so much every process holds, and gathers, and the first one has a gradient of as many rows."""
    import torch
    from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state
    from transformers import AutoModelForCausalLM, MixtralConfig

    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        num_local_experts=experts,
        num_experts_per_tok=2,
    )
    real = AutoModelForCausalLM.from_config(config)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (RANKS,))
    for module in (*real.model.layers, real):
        torch.distributed.fsdp.fully_shard(module, mesh=mesh)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    real(input_ids=tokens, labels=tokens).loss.backward()

    architecture = architecture_of(config.to_dict())
    assert isinstance(architecture, Architecture)
    workload = Workload(Tuning.FULL, FLOAT32, 1, 8, strategy=Strategy.FSDP, processes=RANKS)
    states = states_of(architecture, workload)

    groups = [_get_module_fsdp_state(module)._fsdp_param_group for module in (*real.model.layers, real)]
    held = sum(parameter._sharded_param_data.nbytes for group in groups for parameter in group.fsdp_params)
    layer = sum(gathered.numel() for parameter in groups[0].fsdp_params for gathered in parameter.all_gather_outputs)
    gradients = sum(parameter.grad.to_local().nbytes for parameter in real.parameters())
    assert (held, gradients, 4 * layer) == (states.resident_weights, states.gradients, states.layer_weights)


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_of_its_own_is_not_whole_beside_the_head(ranks: None, tied: bool) -> None:
    """Units as accelerate 1.15 makes them (fsdp2_prepare_model): layers, embedding, and last norm with head; what is gathered inside the loss."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**shape, vocab_size=512, tie_word_embeddings=tied)
    real = AutoModelForCausalLM.from_config(config)
    options = {
        "mesh": torch.distributed.device_mesh.init_device_mesh("cpu", (RANKS,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16),
    }
    for layer in real.model.layers:
        fully_shard(layer, **options)
    embedding = real.model.embed_tokens
    tail = [real.model.norm, real.lm_head]
    if tied:
        tail.insert(1, embedding)
    else:
        fully_shard(embedding, **options)
    fully_shard(tail, reshard_after_forward=False, **options)
    fully_shard(real, **options)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    real(input_ids=tokens)
    units = [_get_module_fsdp_state(module)._fsdp_param_group for module in (*real.model.layers, embedding, tail[0])]
    whole = {id(unit): unit for unit in units if unit is not None and unit.is_unsharded}
    gathered = sum(parameter.unsharded_param.nbytes for unit in whole.values() for parameter in unit.fsdp_params)

    architecture = architecture_of(config.to_dict())
    assert isinstance(architecture, Architecture)
    workload = Workload(Tuning.FULL, FLOAT32_MASTER, 1, 8, strategy=Strategy.FSDP, processes=RANKS, splits_root=True)
    assert gathered == states_of(architecture, workload).root_weights


def test_the_scales_of_4_bit_weights_stay_whole_on_every_process() -> None:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False).to("cpu")
    assert layer.weight.quant_state.absmax.numel() == 64 * 64 // layer.weight.blocksize
    # FSDP spreads parameters: the codes, two in a byte, are the only one.
    assert [tensor.numel() for tensor in layer.parameters()] == [64 * 64 // 2]
    assert all(tensor.dtype is torch.uint8 for tensor in layer.parameters())
    architecture = architecture_of(KNOWN_MODELS["meta-llama/Llama-2-70b-hf"])
    assert isinstance(architecture, Architecture)
    qlora = Workload(Tuning.LORA, FLOAT32_MASTER, 1, 512, quantization=Quantization.NF4_DOUBLE)
    whole = states_of(architecture, qlora).resident_weights
    sharded = replace(qlora, strategy=Strategy.FSDP, processes=2, flat_parameters=True)
    scales = scale_bytes(architecture, qlora)
    # A byte per 64 weights, and a float32 per 256 of those.
    layers = sum(block.copies * block.quantisable_parameters for block in architecture.blocks)
    assert scales == pytest.approx(layers / 64 * (1 + 4 / 256), rel=1e-6)
    assert states_of(architecture, sharded).resident_weights == pytest.approx((whole + scales) / 2, rel=1e-6)
