"""Overrides are obeyed, and one that cannot fit is refused with the smallest change that would."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.testing import A10G, H100, LLAMA_8B, SMALL, T4, bad, good, plan_of, spec_of


def test_overrides_are_obeyed_field_by_field() -> None:
    resources = {
        "gpus": 4,
        "strategy": "fsdp",
        "microBatchSize": 2,
        "gradientCheckpointing": "full",
        "pods": 2,
        "gpuProduct": [H100],
    }
    plan = good(plan_of(spec_of(method="lora", resources=resources)))
    assert (plan.processes, plan.pods, plan.processes_per_pod, plan.strategy) == (4, 2, 2, Strategy.FSDP)
    assert (plan.micro_batch_size, plan.gradient_accumulation) == (2, 8)
    assert plan.gradient_checkpointing is Checkpointing.FULL


def test_a_count_that_does_not_divide_the_global_batch_names_counts_that_do() -> None:
    error = bad(plan_of(spec_of(resources={"gpus": 3})))
    assert error.reason == Reason.INVALID_SPEC
    assert "resources.gpus: 3" in error.message
    assert "1, 2, 4" in error.message
    assert "66" in error.message


@pytest.mark.parametrize(("resources", "field"), [({"gpus": 1}, "gpus: 2"), ({"accelerator": "cpu"}, "processes: 2")])
def test_a_strategy_for_several_processes_is_refused_with_one(resources: dict[str, Any], field: str) -> None:
    error = bad(plan_of(spec_of(SMALL, resources={"strategy": "ddp", **resources})))
    assert error.reason == Reason.INVALID_SPEC
    assert f"resources.{field}" in error.message
    assert "resources.strategy: single" in error.message


def test_a_strategy_for_several_processes_takes_at_least_two() -> None:
    assert good(plan_of(spec_of(SMALL, resources={"strategy": "ddp"}))).processes == 2


def test_a_micro_batch_that_cannot_make_up_the_global_batch_names_those_that_can() -> None:
    error = bad(plan_of(spec_of(resources={"gpus": 8, "microBatchSize": 3})))
    assert error.reason == Reason.INVALID_SPEC
    assert "resources.microBatchSize: 3" in error.message
    assert "1, 2, 4, 8" in error.message


def test_what_does_not_fit_names_the_smallest_changes_that_help() -> None:
    spec = spec_of(method="full", resources={"gpuProduct": [A10G], "gpus": 1})
    error = bad(plan_of(spec))
    assert error.reason == Reason.DOES_NOT_FIT
    assert not error.waits
    assert "× NVIDIA-A10G" in error.message
    assert "tuning.method: lora" in error.message or "tuning.method: qlora" in error.message


@pytest.mark.parametrize(("objective", "proposed"), [("sft", True), ("reward", False), ("classification", False)])
def test_4_bit_weights_are_proposed_where_the_objective_goes_with_them(objective: str, proposed: bool) -> None:
    error = bad(plan_of(spec_of(method="lora", objective=objective, resources={"gpuProduct": [T4], "gpus": 1})))
    assert error.reason == Reason.DOES_NOT_FIT
    assert ("tuning.method: qlora" in error.message) is proposed


def test_the_proposed_hardware_does_fit() -> None:
    error = bad(plan_of(spec_of(method="full", resources={"gpuProduct": [A10G], "gpus": 1})))
    proposal = error.message.split("it needs ")[1].split(" × ")[0]
    good(plan_of(spec_of(method="full", resources={"gpuProduct": [A10G], "gpus": int(proposal)})))


def test_overrides_that_are_too_large_only_together_are_named_together() -> None:
    resources = {"gpuProduct": [A10G], "gpus": 1, "microBatchSize": 64, "gradientCheckpointing": "none"}
    error = bad(plan_of(spec_of(method="lora", resources=resources)))
    assert error.reason == Reason.DOES_NOT_FIT
    proposed = re.search(r"resources.microBatchSize: (\d+) and resources.gradientCheckpointing: full", error.message)
    assert proposed is not None, error.message
    changed = {**resources, "microBatchSize": int(proposed[1]), "gradientCheckpointing": "full"}
    good(plan_of(spec_of(method="lora", resources=changed)))
    bad(plan_of(spec_of(method="lora", resources={**changed, "microBatchSize": 2 * int(proposed[1])})))


def test_lora_targets_that_the_model_lacks_are_refused_with_those_it_has() -> None:
    error = bad(plan_of(spec_of(method="lora", lora={"targets": ["query"]})))
    assert error.reason == Reason.INVALID_SPEC
    assert "query" in error.message
    assert "q_proj" in error.message


OVERRIDES = st.fixed_dictionaries(
    {"gpus": st.sampled_from([1, 2, 8])},
    optional={
        "strategy": st.sampled_from(["ddp", "fsdp", "zero1", "zero2", "zero3"]),
        "microBatchSize": st.sampled_from([1, 4, 8]),
        "gradientCheckpointing": st.sampled_from(["none", "full"]),
        "pods": st.sampled_from([1, 2]),
    },
)


@settings(max_examples=40)
@given(
    st.sampled_from([Method.FULL, Method.LORA, Method.QLORA]),
    st.sampled_from([LLAMA_8B, "Qwen/Qwen2.5-32B"]),
    OVERRIDES,
)
def test_every_setting_that_is_proposed_does_fit(method: Method, model: str, resources: dict[str, Any]) -> None:
    resources = {**resources, "gpuProduct": [A10G]}
    strategy = resources.get("strategy")
    if resources.get("pods", 1) > resources["gpus"] or (strategy and resources["gpus"] == 1):
        return
    if strategy in ("zero1", "zero2") and method is Method.QLORA:
        return
    spec = spec_of(model, method=str(method), resources=resources)
    inventory = catalogue_inventory((A10G,))
    answer = plan_of(spec, inventory)
    if isinstance(answer, Plan) or answer.reason != Reason.DOES_NOT_FIT:
        return
    for proposal in re.findall(r"resources\.\w+: \w+(?: and resources\.\w+: \w+)*", answer.message):
        changes = dict(re.findall(r"resources\.(\w+): (\w+)", proposal))
        changed = {**resources, **{name: int(value) if value.isdecimal() else value for name, value in changes.items()}}
        good(plan_of(spec_of(model, method=str(method), resources=changed), inventory))


def test_a_strategy_that_cannot_fit_is_refused_with_the_one_that_does() -> None:
    resources = {"gpuProduct": ["NVIDIA-A100-SXM4-80GB"], "gpus": 8, "strategy": "ddp"}
    error = bad(plan_of(spec_of("meta-llama/Llama-3.1-70B", method="lora", resources=resources)))
    assert error.reason == Reason.DOES_NOT_FIT
    assert "resources.strategy: fsdp" in error.message
