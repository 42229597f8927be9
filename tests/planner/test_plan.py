"""What the planner decides."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.compatibility import Checkpointing, Objective, Strategy
from finetune_operator.api.reasons import Reason
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.families import ENCODERS
from finetune_operator.memory.kinds import FLOAT32_MASTER
from finetune_operator.memory.own_workload import numerics_of
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan, total_steps
from finetune_operator.planner.testing import (
    H100,
    SMALL,
    T4,
    bad,
    cpu_inventory,
    good,
    gpu_nodes,
    inspected,
    plan_of,
    spec_of,
)


def test_qlora_of_an_8b_model_fits_one_t4_with_checkpointing() -> None:
    plan = good(plan_of(spec_of(method="qlora", resources={"gpuProduct": [T4], "gpus": 1})))
    assert (plan.strategy, plan.gradient_checkpointing, plan.processes) == (Strategy.SINGLE, Checkpointing.FULL, 1)
    assert any("no bfloat16" in reason for reason in plan.reasons)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_trained_weights_are_planned_in_float32_as_the_trainer_keeps_them(method: str) -> None:
    assert numerics_of(spec_of(method=method)) == FLOAT32_MASTER


def test_lora_of_a_70b_model_on_eight_a100_is_sharded() -> None:
    spec = spec_of(
        "meta-llama/Llama-3.1-70B", method="lora", resources={"gpuProduct": ["NVIDIA-A100-SXM4-80GB"], "gpus": 8}
    )
    plan = good(plan_of(spec))
    assert plan.strategy is Strategy.FSDP
    assert plan.pods == 1


def test_full_training_of_an_8b_model_on_eight_h100_shards_its_states() -> None:
    plan = good(plan_of(spec_of(method="full", resources={"gpuProduct": [H100], "gpus": 8})))
    assert plan.strategy in (Strategy.FSDP, Strategy.ZERO2)
    assert plan.trainable_parameters == plan.total_parameters == 8_030_261_248


def test_one_gpu_is_taken_where_several_could_not_take_more_at_once() -> None:
    """With a large batch four that share the base can: micro-batches of four where one GPU has room for two, and 3 % fewer GPU-seconds."""
    spec = spec_of(method="lora", training={"globalBatchSize": 2})
    plan = good(plan_of(spec, Inventory(gpu_nodes=(gpu_nodes(),))))
    assert (plan.processes, plan.strategy) == (1, Strategy.SINGLE)


def test_fastest_takes_all_gpus_that_it_may() -> None:
    spec = spec_of(method="lora", resources={"objectiveOfPlan": "fastest", "maxGPUs": 4})
    assert good(plan_of(spec, Inventory(gpu_nodes=(gpu_nodes(),)))).processes == 4


def test_more_gpus_than_a_node_has_are_spread_over_pods() -> None:
    plan = good(plan_of(spec_of(method="lora", resources={"gpuProduct": [H100], "gpus": 16})))
    assert (plan.pods, plan.processes_per_pod, plan.resources.gpus) == (2, 8, 8)


def test_full_training_on_two_cpu_processes_is_sharded_and_lora_is_copied() -> None:
    resources = {"accelerator": "cpu", "processes": 2}
    training = {"globalBatchSize": 8, "maxLength": 256}
    full = good(plan_of(spec_of(SMALL, method="full", resources=resources, training=training), cpu_inventory()))
    lora = good(plan_of(spec_of(SMALL, method="lora", resources=resources, training=training), cpu_inventory()))
    assert (full.strategy, lora.strategy) == (Strategy.FSDP, Strategy.DDP)
    assert (full.gpus, full.gpu_product, full.resources.gpus) == (0, None, 0)


def test_an_unknown_architecture_is_named() -> None:
    error = bad(make_plan(spec_of(), None, catalogue_inventory(), config={"model_type": "rwkv"}))
    assert error.reason == Reason.UNKNOWN_ARCHITECTURE


def test_a_multimodal_model_is_refused_since_only_its_text_part_can_be_sized() -> None:
    error = bad(plan_of(spec_of("google/gemma-3-4b-it")))
    assert error.reason == Reason.UNKNOWN_ARCHITECTURE
    assert "multimodal" in error.message


@pytest.mark.parametrize("model", ["google-bert/bert-base-uncased", "answerdotai/ModernBERT-base"])
def test_an_encoder_is_refused_since_the_trainer_would_load_it_as_a_causal_language_model(model: str) -> None:
    error = bad(plan_of(spec_of(model, method="full")))
    assert error.reason == Reason.UNSUPPORTED_COMBINATION
    assert "objective: sft" in error.message
    assert model in error.message
    assert "finetune estimate" in error.message


@pytest.mark.parametrize("objective", ["classification", "token-classification", "embedding", "reranker"])
@pytest.mark.parametrize(
    ("model", "cut"),
    [("google-bert/bert-base-uncased", 512), ("FacebookAI/roberta-base", 512), ("Qwen/Qwen3-0.6B", 2048)],
)
def test_encoders_and_decoders_learn_classes_vectors_and_scores_within_their_positions(
    objective: str, model: str, cut: int
) -> None:
    spec = spec_of(model, method="full", training={"packing": "auto"}).model_copy(
        update={"objective": Objective(objective)}
    )
    plan = good(plan_of(spec))
    assert plan.max_length == cut
    assert not plan.packed
    assert plan.trainable_parameters == plan.total_parameters


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (Objective.CLASSIFICATION, "set model.uri to an encoder"),
        (Objective.TOKEN_CLASSIFICATION, "set model.uri to an encoder"),
        (Objective.REWARD, "set model.uri to a Llama"),
    ],
)
def test_a_model_without_the_head_that_the_objective_needs_is_refused(objective: Objective, says: str) -> None:
    error = bad(plan_of(spec_of("ibm-granite/granite-3.1-2b-instruct").model_copy(update={"objective": objective})))
    assert error.reason == Reason.UNSUPPORTED_COMBINATION
    assert says in error.message


def test_three_thousand_rows_with_batch_four_make_750_steps() -> None:
    spec = spec_of(training={"globalBatchSize": 4, "epochs": 1})
    plan = good(plan_of(spec, inspection=inspected(rows=3000)))
    assert (plan.rows, plan.steps_per_epoch, plan.total_steps) == (3000, 750, 750)


@pytest.mark.parametrize(
    ("training", "rows", "steps"),
    [
        ({"globalBatchSize": 64, "epochs": 1}, 65, 2),
        ({"globalBatchSize": 64, "epochs": 2}, 96, 3),
        ({"globalBatchSize": 1, "epochs": 0.1}, 30, 3),
        ({"globalBatchSize": 64, "maxSteps": 7}, 1000, 7),
        ({"globalBatchSize": 64}, 0, 0),
    ],
)
def test_steps_are_epochs_times_rows_over_the_global_batch_rounded_up(
    training: dict[str, Any], rows: int, steps: int
) -> None:
    assert total_steps(spec_of(training=training), rows) == steps


def test_short_rows_need_less_memory_than_the_longest_allowed() -> None:
    spec = spec_of(method="lora", resources={"gpuProduct": [H100], "gpus": 1, "microBatchSize": 1})
    short = good(plan_of(spec, inspection=inspected(longest=128)))
    long = good(plan_of(spec, inspection=inspected(longest=5000)))
    assert short.memory.expected_bytes < long.memory.expected_bytes
    assert short.max_length == long.max_length == 2048


def test_a_known_decoder_of_every_type_has_a_plan() -> None:
    assert all(isinstance(architecture_of(config), Architecture) for config in KNOWN_MODELS.values())
    text_only = {config["model_type"]: name for name, config in KNOWN_MODELS.items() if "text_config" not in config}
    decoders = [name for model_type, name in text_only.items() if model_type not in ENCODERS]
    assert len(decoders) > 30
    for name in decoders:
        good(plan_of(spec_of(name, method="lora", resources={"gpus": 8})))
