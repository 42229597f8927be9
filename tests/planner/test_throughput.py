"""The roofline: what must hold of any estimate of speed, and a few runs that others published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import SHARDED_STRATEGIES, Checkpointing, Offload, Strategy
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.kinds import FLOAT32, FLOAT32_MASTER, PURE_BF16, AttentionKernel, Quantization, Tuning
from finetune_operator.memory.workload import Workload
from finetune_operator.planner.catalogue import CATALOGUE, gpu_of, processor
from finetune_operator.planner.gpu_table import Gpu
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.roofline.kernel_style import KernelStyle
from finetune_operator.planner.roofline.step import time_of
from finetune_operator.planner.roofline.work import Work, work_of
from finetune_operator.planner.throughput import step_seconds


def known(name: str) -> Architecture:
    found = architecture_of(KNOWN_MODELS[name])
    assert isinstance(found, Architecture)
    return found


LLAMA_8B = known("meta-llama/Meta-Llama-3-8B")
LLAMA_7B = known("meta-llama/Llama-2-7b-hf")
MIXTRAL = known("mistralai/Mixtral-8x7B-v0.1")
SMALL = known("HuggingFaceTB/SmolLM2-135M")
A100, H100 = gpu_of("NVIDIA-A100-SXM4-80GB"), gpu_of("NVIDIA-H100-80GB-HBM3")
RTX_3090 = gpu_of("NVIDIA-GeForce-RTX-3090")
NONE, FULL = Checkpointing.NONE, Checkpointing.FULL


def lora(**changes: Any) -> Workload:
    plain = Workload(tuning=Tuning.LORA, numerics=FLOAT32_MASTER, micro_batch=4, sequence_length=2048)
    return replace(plain, **changes)


def full(**changes: Any) -> Workload:
    return lora(tuning=Tuning.FULL, **changes)


def seconds(workload: Workload, gpu: Gpu = A100, architecture: Architecture = LLAMA_8B, per_node: int = 8) -> float:
    return step_seconds(architecture, workload, gpu, per_node)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    processes = draw(st.sampled_from([1, 2, 8, 16]))
    several = st.sampled_from([Strategy.DDP, *SHARDED_STRATEGIES])
    tuning = draw(st.sampled_from([Tuning.FULL, Tuning.LORA, Tuning.DORA]))
    quantised = tuning is not Tuning.FULL and draw(st.booleans())
    return Workload(
        tuning=tuning,
        numerics=draw(st.sampled_from([PURE_BF16, FLOAT32_MASTER, FLOAT32])),
        micro_batch=draw(st.sampled_from([1, 2, 4, 16])),
        sequence_length=draw(st.sampled_from([128, 1024, 8192])),
        accumulation=draw(st.sampled_from([1, 4])),
        strategy=Strategy.SINGLE if processes == 1 else draw(several),
        processes=processes,
        checkpointing=draw(st.sampled_from([NONE, FULL])),
        quantization=Quantization.NF4_DOUBLE if quantised else Quantization.NONE,
        attention=draw(st.sampled_from([AttentionKernel.SDPA, AttentionKernel.EAGER])),
    )


architectures = st.sampled_from([LLAMA_8B, MIXTRAL, SMALL])
gpus = st.sampled_from(CATALOGUE)


@given(workloads(), architectures, gpus, st.sampled_from([1, 8]))
def test_more_work_never_takes_less_time(workload: Workload, architecture: Architecture, gpu: Gpu, node: int) -> None:
    least = seconds(workload, gpu, architecture, node)
    assert least > 0
    for more in (
        {"micro_batch": workload.micro_batch * 2},
        {"sequence_length": workload.sequence_length * 2},
        {"accumulation": workload.accumulation + 1},
        {"checkpointing": FULL},
        {"rank": workload.rank * 2},
        {"offload": Offload.OPTIMIZER},
        {"attention": AttentionKernel.EAGER},
    ):
        assert seconds(replace(workload, **more), gpu, architecture, node) >= least, more


@given(workloads(), architectures, gpus)
def test_a_faster_gpu_is_never_slower(workload: Workload, architecture: Architecture, gpu: Gpu) -> None:
    work = work_of(architecture, workload)
    before = time_of(work, gpu, 8).seconds
    for better in (
        replace(gpu, tflops=gpu.tflops * 2),
        replace(gpu, bandwidth=gpu.bandwidth * 2),
        replace(gpu, link=gpu.link * 2),
    ):
        assert time_of(work, better, 8).seconds <= before
    assert time_of(work, gpu, 8, network=100.0).seconds <= time_of(work, gpu, 8, network=10.0).seconds


@given(workloads(), architectures, gpus)
def test_no_step_beats_the_data_sheet(workload: Workload, architecture: Architecture, gpu: Gpu) -> None:
    work = work_of(architecture, workload)
    arithmetic = (work.matrix_flops + work.head_flops + work.attention_flops) / (gpu.tflops * 1e12)
    traffic = (work.matrix_bytes + work.dequantized_bytes) / (gpu.bandwidth * 1e9)
    assert time_of(work, gpu, 8).seconds > workload.accumulation * max(arithmetic, traffic)


def products_per_token(work: Work) -> float:
    return (work.matrix_flops + work.head_flops) / work.tokens


def test_full_training_multiplies_every_weight_by_6_per_token_and_8_with_checkpointing() -> None:
    weights = LLAMA_8B.active_parameters
    assert products_per_token(work_of(LLAMA_8B, full(checkpointing=NONE))) == pytest.approx(6 * weights, rel=1e-3)
    again = work_of(LLAMA_8B, full(checkpointing=FULL))
    # The head lies outside the checkpointed layers.
    assert products_per_token(again) == pytest.approx(8 * weights - 2 * 4096 * 128_256, rel=1e-3)


def test_lora_spares_the_gradients_of_frozen_weights() -> None:
    weights = LLAMA_8B.active_parameters
    assert products_per_token(work_of(LLAMA_8B, lora(checkpointing=NONE))) == pytest.approx(4 * weights, rel=0.02)


def test_experts_count_as_far_as_tokens_are_routed_to_them() -> None:
    products = products_per_token(work_of(MIXTRAL, full(checkpointing=NONE)))
    assert products == pytest.approx(6 * MIXTRAL.active_parameters, rel=1e-3)
    assert products < 6 * MIXTRAL.parameters / 3


def test_causal_attention_computes_half_of_the_scores() -> None:
    work = work_of(LLAMA_8B, full(checkpointing=NONE))
    # Forward 2 products, backward 5, each of 2 × length / 2 × width operations per token and layer.
    assert work.attention_flops / work.tokens == pytest.approx(7 * 32 * 2048 * 4096)


def test_eager_attention_is_slower_the_longer_the_sequence() -> None:
    def ratio(length: int) -> float:
        eager = lora(sequence_length=length, micro_batch=1, attention=AttentionKernel.EAGER)
        return seconds(eager) / seconds(lora(sequence_length=length, micro_batch=1))

    assert 1 < ratio(1024) < ratio(8192)
    assert ratio(8192) > 2


def test_quantised_weights_cost_time_and_least_with_large_micro_batches() -> None:
    def ratio(micro_batch: int) -> float:
        quantised = lora(micro_batch=micro_batch, quantization=Quantization.NF4_DOUBLE)
        return seconds(quantised) / seconds(lora(micro_batch=micro_batch))

    assert ratio(1) > ratio(16) > 1
    assert ratio(16) < 1.1


def test_small_micro_batches_use_the_gpu_less() -> None:
    def per_token(micro_batch: int, length: int) -> float:
        return seconds(lora(micro_batch=micro_batch, sequence_length=length), H100) / (micro_batch * length)

    assert per_token(1, 128) > 2 * per_token(1, 2048) > 2 * per_token(8, 2048) * 0.95


def test_the_network_between_nodes_slows_sharded_training_down_more_than_copies_of_adapters() -> None:
    def ratio(workload: Workload) -> float:
        return seconds(workload, per_node=1) / seconds(workload, per_node=8)

    sharded = ratio(full(strategy=Strategy.FSDP, processes=8, micro_batch=1))
    copies = ratio(lora(strategy=Strategy.DDP, processes=8, micro_batch=1))
    assert sharded > 2 > 1.2 > copies


def test_cards_without_peer_access_pay_for_sharding() -> None:
    sharded = lora(strategy=Strategy.FSDP, processes=2, micro_batch=1)
    work = work_of(LLAMA_8B, sharded)
    assert time_of(work, RTX_3090, 2).exchange > 20 * time_of(work, A100, 2).exchange


def test_compiled_and_fused_kernels_save_traffic_and_launches() -> None:
    plain = work_of(LLAMA_8B, full())
    for style in (KernelStyle(compiled=True), KernelStyle(fused=True)):
        better = work_of(LLAMA_8B, full(), style)
        assert better.elementwise_bytes < plain.elementwise_bytes
        assert better.kernels < plain.kernels
        assert better.matrix_flops == plain.matrix_flops


def test_a_tiny_model_waits_for_python() -> None:
    time = time_of(work_of(SMALL, full(micro_batch=1, sequence_length=128)), H100, 1)
    assert time.host > time.matrix + time.attention + time.elementwise


def test_a_cpu_process_is_thousands_of_times_slower_than_a_gpu() -> None:
    workload = full(accelerator="cpu", numerics=FLOAT32, micro_batch=1)
    assert seconds(workload, processor(64 * 2**30, 0.05), SMALL, 1) > 100 * seconds(full(micro_batch=1), H100, SMALL, 1)


PUBLISHED = [
    # Source, model, workload, GPU, tokens per second.
    (
        "Qwen README (2df8e8a): LoRA of 7B takes 5.2 s for 8 × 2,048 tokens on A100-80G",
        LLAMA_7B,
        lora(micro_batch=1, accumulation=8),
        A100,
        3151,
    ),
    (
        "PEFT method_comparison (5261e95): rank 32 on q and v of a 3B model, 4 × 210 tokens on L40S",
        known("meta-llama/Llama-3.2-3B"),
        lora(sequence_length=210, rank=32, targets=("q_proj", "v_proj"), checkpointing=NONE),
        gpu_of("NVIDIA-L40S"),
        6988,
    ),
]


@pytest.mark.parametrize(("source", "architecture", "workload", "gpu", "measured"), PUBLISHED)
def test_published_runs_are_predicted_within_a_quarter(
    source: str, architecture: Architecture, workload: Workload, gpu: Gpu, measured: float
) -> None:
    predicted = workload.tokens * workload.accumulation / seconds(workload, gpu, architecture)
    assert predicted == pytest.approx(measured, rel=0.25), source
