"""The states' closed forms against the libraries themselves: what PEFT trains, what optimizers keep, how bitsandbytes stores weights."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.tuning import Freeze
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.blocks import Tensor, TensorClass
from finetune_operator.memory.kinds import (
    BF16_FLOAT32_MOMENTS,
    FLOAT32,
    PURE_BF16,
    Numerics,
    Optimizer,
    Quantization,
    Tuning,
)
from finetune_operator.memory.states import base_weight_bytes, states_of, trainable_parameters
from finetune_operator.memory.states.optimizers import optimizer_memory
from finetune_operator.memory.states.quantization import quantised_bytes
from finetune_operator.memory.states.trainable import Trained, trained_tensors
from finetune_operator.memory.workload import Workload
from finetune_trainer.unfrozen import chosen_weights

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def small_architecture(**more: Any) -> Architecture:
    found = architecture_of({"model_type": "llama", **SMALL, **more})
    assert isinstance(found, Architecture)
    return found


def small_model(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **more}))


def workload(tuning: Tuning = Tuning.FULL, numerics: Numerics = FLOAT32, **more: Any) -> Workload:
    return replace(Workload(tuning, numerics, 1, 1), **more)


def peft_configs() -> list[tuple[str, Any, Workload]]:
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    lora = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    some = ("k_proj", "v_proj", "down_proj")
    embeddings = {"modules_to_save": ["embed_tokens", "lm_head"]}
    return [
        ("lora", LoraConfig(**lora), workload(Tuning.LORA, rank=4)),
        ("rslora", LoraConfig(**lora, use_rslora=True), workload(Tuning.LORA, rank=4)),
        ("dora", LoraConfig(**lora, use_dora=True), workload(Tuning.DORA, rank=4)),
        (
            "lora and embeddings",
            LoraConfig(**lora, **embeddings),
            workload(Tuning.LORA, rank=4, trained_embeddings=True),
        ),
        (
            "ia3",
            IA3Config(target_modules=list(some), feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
            workload(Tuning.IA3, targets=some),
        ),
        ("prompt", PromptTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"), workload(Tuning.PROMPT, rank=7)),
        ("prefix", PrefixTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"), workload(Tuning.PREFIX, rank=7)),
    ]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks transformers for it
def test_trained_parameters_of_every_adapter_equal_those_that_peft_trains() -> None:
    from peft import get_peft_model

    wrong = {}
    for name, config, described in peft_configs():
        model = get_peft_model(small_model(), config)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if trained != (found := trainable_parameters(small_architecture(), described)):
            wrong[name] = (trained, found)
    assert wrong == {}


def test_freeze_trains_the_last_layers_the_last_norm_and_the_head() -> None:
    model = small_model()
    parts = [*model.model.layers[-2:], model.model.norm, model.lm_head]
    trained = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert trainable_parameters(small_architecture(), workload(Tuning.FREEZE, trained_layers=2)) == trained


def test_freeze_trains_named_modules_of_the_last_layers_as_the_trainer_does() -> None:
    model = small_model()
    described = workload(Tuning.FREEZE, trained_layers=2, trained_modules=("q_proj", "down_proj"))
    chosen = chosen_weights(model, Freeze(trainable="last:2", modules=["q_proj", "down_proj"]), keeps_head=False)
    names = [name for name, each in model.named_parameters() if any(each is parameter for parameter in chosen)]
    assert [name.removeprefix("model.layers.") for name in names] == [
        f"{layer}.{module}.weight" for layer in (1, 2) for module in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert trainable_parameters(small_architecture(), described) == sum(parameter.numel() for parameter in chosen)


def test_freeze_trains_a_tied_embedding_as_the_head() -> None:
    tied = small_architecture(tie_word_embeddings=True)
    assert trainable_parameters(tied, workload(Tuning.FREEZE)) == 320 * 64 + 64


def test_trained_and_frozen_weights_are_the_whole_model() -> None:
    architecture = small_architecture()
    for tuning, more in ((Tuning.FREEZE, {"trained_layers": 1}), (Tuning.SPECTRUM, {"trained_fraction": 0.34})):
        numerics = Numerics(base=2, trained=4, compute=2, autocast=True)
        states = states_of(architecture, workload(tuning, numerics, **more))
        assert states.resident_weights == 2 * architecture.parameters + 2 * states.trainable


def _optimizers() -> list[tuple[Workload, Callable[[Any], Any]]]:
    import bitsandbytes
    import torch
    from transformers.optimization import Adafactor

    def adam(numerics: Numerics, name: Optimizer, **more: Any) -> tuple[Workload, Callable[[Any], Any]]:
        return workload(numerics=numerics, optimizer=name), lambda m: torch.optim.AdamW(m.parameters(), **more)

    return [
        adam(FLOAT32, Optimizer.ADAMW, fused=True),
        adam(PURE_BF16, Optimizer.ADAMW, fused=True),
        adam(PURE_BF16, Optimizer.ADAMW_FOREACH, foreach=True),
        (workload(optimizer=Optimizer.SGD), lambda m: torch.optim.SGD(m.parameters(), lr=0.1)),
        (workload(optimizer=Optimizer.ADAFACTOR), lambda m: Adafactor(m.parameters())),
        (workload(numerics=PURE_BF16, optimizer=Optimizer.ADAFACTOR), lambda m: Adafactor(m.parameters())),
        (workload(optimizer=Optimizer.ADAMW_8BIT), lambda m: bitsandbytes.optim.AdamW8bit(m.parameters())),
    ]


def test_what_optimizers_keep_after_a_step_is_what_the_closed_form_says() -> None:
    import torch
    from bitsandbytes.optim import GlobalOptimManager

    tensors = trained_tensors(small_architecture(), workload())
    wrong = {}
    for described, make in _optimizers():
        model = small_model().to(torch.float32 if described.numerics.trained == 4 else torch.bfloat16)
        GlobalOptimManager.get_instance().register_module_override(
            model.model.embed_tokens, "weight", {"optim_bits": 32}
        )
        optimizer = make(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kept = {
            id(value): value.nbytes
            for state in optimizer.state.values()
            for key, value in state.items()
            if isinstance(value, torch.Tensor) and value.numel() > 1 and not key.startswith("qmap")
        }
        found = optimizer_memory(tensors, described).device
        if sum(kept.values()) != pytest.approx(found, rel=1e-3):
            wrong[described.optimizer] = (sum(kept.values()), found)
    assert wrong == {}


def test_muon_keeps_one_momentum_of_the_layers_matrices() -> None:
    import torch

    model = small_model()
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in matrices)
    optimizer = torch.optim.Muon(matrices, lr=0.1)
    for parameter in matrices:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(state["momentum_buffer"].nbytes for state in optimizer.state.values())
    described = workload(optimizer=Optimizer.MUON)
    assert optimizer_memory(trained_tensors(small_architecture(), described), described).device == kept + 8 * rest


def peak_of(step: Callable[[], object]) -> int:
    """Return the most bytes that tensors born inside `step` hold at once."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Tracker(TorchDispatchMode):
        live = peak = 0
        known: set[int] = set()  # noqa: RUF012 - one tracker lives as long as one step

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = {
                leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)
            }
            result = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in before | self.known:
                    storage = leaf.untyped_storage()
                    address, size = storage.data_ptr(), storage.nbytes()
                    self.known.add(address)
                    self.live += size
                    weakref.finalize(storage, self.free, address, size)
            self.peak = max(self.peak, self.live)
            return result

        def free(self, address: int, size: int) -> None:
            self.known.discard(address)
            self.live -= size

    gc.collect()
    with Tracker() as tracker:
        step()
    return int(tracker.peak)


@pytest.mark.parametrize(
    ("numerics", "optimizer"),
    [
        (FLOAT32, Optimizer.ADAMW),
        (FLOAT32, Optimizer.ADAMW_FOREACH),
        (PURE_BF16, Optimizer.ADAMW_FOREACH),
        (FLOAT32, Optimizer.ADAFACTOR),
        (PURE_BF16, Optimizer.ADAFACTOR),
    ],
)
def test_the_second_step_needs_the_temporaries_that_the_closed_form_says(
    numerics: Numerics, optimizer: Optimizer
) -> None:
    import torch
    from transformers.optimization import Adafactor

    dtype = torch.float32 if numerics.trained == 4 else torch.bfloat16
    parameters = [torch.nn.Parameter(torch.ones(128, 96, dtype=dtype)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made = {
        Optimizer.ADAMW: lambda: torch.optim.AdamW(parameters, fused=True),
        Optimizer.ADAMW_FOREACH: lambda: torch.optim.AdamW(parameters, foreach=True),
        Optimizer.ADAFACTOR: lambda: Adafactor(parameters),
    }[optimizer]()
    made.step()
    memory = optimizer_memory([Trained(128, 96, 3)], workload(numerics=numerics, optimizer=optimizer))
    largest = 128 * 96 * 4
    assert peak_of(made.step) == pytest.approx(memory.step + memory.step_of_largest, abs=0.05 * largest)


def test_moments_in_float32_beside_bfloat16_weights_take_12_bytes_per_parameter() -> None:
    states = states_of(small_architecture(), workload(numerics=BF16_FLOAT32_MOMENTS))
    assert states.resident_weights + states.gradients + states.optimizer == 12 * states.trainable


@pytest.mark.parametrize("quantization", [Quantization.NF4, Quantization.NF4_DOUBLE, Quantization.INT8])
def test_quantised_weights_take_the_bytes_that_bitsandbytes_stores(quantization: Quantization) -> None:
    import bitsandbytes
    import torch

    rows, columns = 512, 1024
    weight = torch.randn(rows, columns)
    if quantization is Quantization.INT8:
        linear = bitsandbytes.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
        linear.weight = bitsandbytes.nn.Int8Params(weight.half(), has_fp16_weights=False, requires_grad=False)
        linear.to("cpu")
        stored = linear.weight.CB.nbytes + linear.weight.SCB.nbytes
    else:
        double = quantization is Quantization.NF4_DOUBLE
        packed, state = bitsandbytes.functional.quantize_4bit(weight, compress_statistics=double, quant_type="nf4")
        stored = packed.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
    tensor = Tensor("q_proj", TensorClass.ATTENTION, (rows, columns), 1, True, columns, rows)
    assert quantised_bytes([tensor], quantization) == pytest.approx(stored, abs=64)


def test_everything_beside_quantised_weights_becomes_float32_when_it_is_upcast() -> None:
    architecture = small_architecture()
    plain = workload(Tuning.LORA, PURE_BF16, quantization=Quantization.NF4)
    rest = architecture.parameters - architecture.quantisable_parameters
    upcast = base_weight_bytes(architecture, replace(plain, upcasts_rest=True))
    assert upcast - base_weight_bytes(architecture, plain) == 2 * rest
