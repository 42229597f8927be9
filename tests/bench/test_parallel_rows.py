"""Rows of runs with tensor, context and pipeline parallelism: how their columns become one process's share."""

from dataclasses import replace

import pytest
from accuracy.models import architecture_of_row
from accuracy.prediction import Prediction, predict
from accuracy.rows import MetricKind, Row
from accuracy.stacks import stack_of
from accuracy.stages import first_stage, last_stage, waiting_bytes

from finetune_operator.memory.activations.model import passes
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.estimate import estimate
from finetune_operator.memory.software import Software
from finetune_operator.memory.states import states_of
from finetune_operator.memory.workload import Workload

LLAMA = {
    "model": "llama-3.1-8b",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "8",
    "intermediate": "14336",
    "vocab": "128256",
    "tied": "0",
    "method": "full",
    "n_gpus": "64",
    "sharding": "fsdp2",
    "weight_dtype": "float32 (FSDP2 shards, bf16 compute params)",
    "compute_precision": "FSDP2 mp bf16 / fp32 reduce",
    "micro_batch": "8",
    "seq_len": "8192",
    "packing": "1",
    "grad_ckpt": "1",
    "compile": "1",
    "framework": "torchtitan",
    "versions": "torch 1963fc8 (2024-12-23)",
}


def read(**changes: str) -> tuple[Architecture, Workload]:
    row = Row({**LLAMA, **changes})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return architecture, workload


def reserved(**changes: str) -> float:
    found = predict(Row({**LLAMA, **changes}))
    assert isinstance(found, Prediction)
    return found.figure(MetricKind.RESERVED).expected


def test_every_member_of_a_shard_group_stands_for_a_tensor_parallel_group() -> None:
    architecture, workload = read(shard_degree="8", tp="8")
    assert (workload.processes, workload.shards) == (64, 8)
    # Float32 weights and two moments of all parameters over all GPUs.
    states = states_of(architecture, workload)
    assert states.resident_weights + states.optimizer == pytest.approx(12 * architecture.parameters / 64, rel=0.001)
    assert read(tp="4", pp="2")[1].shards == 64 // 4 // 2


def test_a_tensor_parallel_group_divides_activations_and_logits() -> None:
    architecture, workload = read(shard_degree="8")
    one, four = (
        max(
            estimate(architecture, replace(workload, tensor_parallel=parts, processes=8 * parts)).phases,
            key=lambda p: p.total,
        )
        for parts in (1, 4)
    )
    for component in ("activations", "logits"):
        alone, shared = ({c.value: size for c, size in peak.components.items()}[component] for peak in (one, four))
        assert shared == pytest.approx(alone / 4, rel=0.01)


def test_a_pipeline_has_one_micro_batch_per_stage_under_way_in_its_first_stage() -> None:
    architecture, workload = read(shard_degree="16", pp="4")
    assert (workload.micro_batch, workload.accumulation, workload.reshards) == (2, 4, False)
    first = first_stage(architecture, 4)
    checkpoints = 8 * 2 * 4096 * workload.tokens
    assert waiting_bytes(first, workload, 4) == pytest.approx(3 * checkpoints, rel=0.01)
    assert architecture.parameters > 3 * max(first.parameters, last_stage(architecture, 4).parameters)
    assert reserved(shard_degree="16", pp="4") < reserved(shard_degree="16")


def test_gradients_that_fsdp_2_adds_up_whole_have_the_type_that_they_are_reduced_in() -> None:
    architecture, workload = read(shard_degree="16", pp="4")
    assert states_of(architecture, workload).accumulated_gradients == 4 * architecture.parameters
    narrow = replace(workload, numerics=replace(workload.numerics, reduces=None))
    assert states_of(architecture, narrow).accumulated_gradients == 2 * architecture.parameters


def test_selective_checkpointing_keeps_attention_and_every_second_product() -> None:
    architecture, workload = read(grad_ckpt="selective (per-op SAC)", shard_degree="64")
    whole = passes(architecture, replace(workload, software=replace(workload.software, saves_products=False)))
    # Query, value and gate, the output of attention, and a float32 per head.
    products = 2 * (4096 + 1024 + 14336 + 4096) + 4 * 32
    assert passes(architecture, workload).kept.token - whole.kept.token == 32 * products


def test_with_every_second_layer_the_others_keep_everything() -> None:
    architecture, workload = read(grad_ckpt="every 2nd layer", shard_degree="64")
    assert [(segment.copies, segment.recomputed) for segment in passes(architecture, workload).segments] == [
        (16, False),
        (16, True),
    ]


def test_a_compiled_loss_keeps_the_logits_and_makes_their_gradient() -> None:
    architecture, workload = read(versions="torch 2.8.0a0", shard_degree="64")
    assert workload.software.compiled_loss
    assert not read()[1].software.compiled_loss
    compiled = max(point.token for point in passes(architecture, workload).head.backward)
    eager = replace(workload, software=Software())
    assert compiled == pytest.approx(4 * 128256, rel=0.1)
    assert max(point.token for point in passes(architecture, eager).head.backward) == pytest.approx(
        12 * 128256, rel=0.1
    )
