"""How the reference of preference training is asked, and what pairs take: decided by how often rows are seen."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.compatibility import Method, Strategy
from finetune_operator.api.plan import GIB, Plan
from finetune_operator.planner.testing import SMALL, bad, good, inspected, plan_of, spec_of


def planned(objective: str, *, training: Any = None, resources: Any = None, **tuning: Any) -> Plan:
    spec = spec_of(SMALL, training={"globalBatchSize": 8, **(training or {})}, resources=resources, **tuning)
    spec = spec.model_validate({**spec.to_json_dict(), "objective": objective})
    return good(plan_of(spec, inspection=inspected(SMALL, rows=1000, longest=512)))


@pytest.mark.parametrize(
    ("method", "training", "strategy", "beforehand"),
    [
        (Method.LORA, {"epochs": 1}, "single", False),
        (Method.LORA, {"epochs": 2}, "single", True),
        (Method.LORA, {"maxSteps": 126}, "single", True),
        (Method.FULL, {"epochs": 1}, "single", True),
        (Method.FULL, {"maxSteps": 50}, "single", False),
        (Method.FULL, {"maxSteps": 50}, "ddp", False),
        (Method.FULL, {"maxSteps": 50}, "fsdp", True),
        (Method.FULL, {"maxSteps": 50}, "zero2", True),
    ],
)
def test_the_reference_is_asked_beforehand_where_that_is_cheaper(
    method: Method, training: dict[str, Any], strategy: str, beforehand: bool
) -> None:
    resources = {"strategy": strategy, "gpus": 1 if strategy == "single" else 2}
    plan = planned("dpo", training=training, resources=resources, method=method)

    assert plan.precomputed_reference is beforehand
    (reason,) = (reason for reason in plan.reasons if reason.startswith("reference: "))
    assert ("asked about all rows before the first step" in reason) is beforehand
    assert ("frozen copy" in reason) is (method is Method.FULL)


def test_a_frozen_copy_takes_four_bytes_per_parameter() -> None:
    resources = {"strategy": "single", "gpus": 1, "microBatchSize": 1}
    short = planned("dpo", training={"maxSteps": 50}, resources=resources, method="full")
    long = planned("dpo", training={"maxSteps": 500}, resources=resources, method="full")

    difference = short.memory.expected_bytes - long.memory.expected_bytes
    assert difference / short.total_parameters == pytest.approx(4.0, abs=0.3)
    assert short.memory_key != long.memory_key
    assert short.resources.memory_bytes - long.resources.memory_bytes == pytest.approx(
        4 * short.total_parameters, rel=0.1
    )


def test_pairs_take_the_memory_and_time_of_two_sequences_and_are_never_packed() -> None:
    resources = {"strategy": "single", "gpus": 1, "microBatchSize": 2, "gradientCheckpointing": "none"}
    alone = planned("sft", training={"packing": "none"}, resources=resources, method="lora")
    pairs = planned("dpo", training={"packing": "auto"}, resources=resources, method="lora")

    assert not pairs.packed
    assert pairs.memory.expected_bytes > alone.memory.expected_bytes + GIB // 8
    assert alone.throughput is not None
    assert pairs.throughput is not None
    assert 1.5 < pairs.throughput.step_seconds / alone.throughput.step_seconds < 2.5
    assert pairs.throughput.tokens_per_second == pytest.approx(
        2 * 8 * 512 / pairs.throughput.step_seconds, rel=0.6
    )  # rows of usual length are shorter


def test_a_reference_that_is_asked_in_every_step_takes_time() -> None:
    resources = {"strategy": "single", "gpus": 1, "microBatchSize": 2, "gradientCheckpointing": "none"}
    once = planned("dpo", training={"epochs": 1}, resources=resources, method="lora").throughput
    often = planned("dpo", training={"epochs": 2}, resources=resources, method="lora").throughput

    assert once is not None
    assert often is not None
    assert 1.1 < once.step_seconds / often.step_seconds < 1.6


def test_single_answers_are_asked_about_in_every_step_and_never_one_at_a_time() -> None:
    plan = planned("kto", resources={"gpus": 1}, method="lora")
    full = planned("kto", resources={"gpus": 2, "strategy": "auto"}, method="full")

    assert not plan.precomputed_reference
    assert plan.micro_batch_size >= 2
    assert "the model without its adapters, asked in every step" in " ".join(plan.reasons)
    assert (full.strategy, full.precomputed_reference) == (Strategy.DDP, False)


def test_too_small_a_batch_for_single_answers_is_refused_with_the_size_that_would_do() -> None:
    spec = spec_of(SMALL, training={"globalBatchSize": 4}, resources={"gpus": 4}, method="lora")
    error = bad(plan_of(spec.model_validate({**spec.to_json_dict(), "objective": "kto"})))
    assert "training.globalBatchSize: 4" in error.message
    assert "set globalBatchSize: 8" in error.message


def test_other_objectives_have_no_reference() -> None:
    plan = planned("sft", method="lora")
    assert not plan.precomputed_reference
    assert not any(reason.startswith("reference: ") for reason in plan.reasons)
    assert plan.strategy in Strategy
