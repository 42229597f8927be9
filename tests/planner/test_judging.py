"""The evaluation after the training in a plan: batches that fit the first pod, and rows that have answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.plan import GIB, Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.judging import judging_host_bytes, judging_weights
from finetune_operator.memory.own_workload import workload_of
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.judging import check_judging, entailment_weights_of
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.testing import SMALL, bad, cpu_inventory, good, gpu_nodes, inspected, plan_of, spec_of

ROWS = {"uri": "s3://data/rows.jsonl", "split": {"evaluation": 0.1}}


def spec(method: str = "lora", dataset: dict[str, Any] | None = None, **evaluation: Any) -> FineTuneJobSpec:
    whole = spec_of(method=method).to_json_dict()
    return FineTuneJobSpec.model_validate({**whole, "dataset": dataset or ROWS, "evaluation": evaluation})


def planned(**evaluation: Any) -> Plan:
    return good(plan_of(spec(**evaluation), Inventory(gpu_nodes=(gpu_nodes(),))))


def test_nothing_is_planned_for_what_is_not_asked() -> None:
    plan = planned()
    assert plan.evaluation_batch_size == 0
    assert not any(reason.startswith("evaluation:") for reason in plan.reasons)


def test_longer_answers_pass_in_smaller_batches_and_the_plan_says_what_they_hold() -> None:
    short, long = planned(metrics=["rouge"], maxNewTokens=16), planned(metrics=["rouge"], maxNewTokens=8192)
    assert short.evaluation_batch_size >= long.evaluation_batch_size > 0
    (reason,) = (reason for reason in short.reasons if reason.startswith("evaluation:"))
    assert "200 rows after the training" in reason
    assert "GiB of weights" in reason


@pytest.mark.parametrize(("metrics", "refused"), [(["rouge"], True), (["perplexity"], False)])
def test_rows_without_answers_are_measured_by_perplexity_alone(metrics: list[str], refused: bool) -> None:
    report = inspected()
    report = report.model_copy(update={"dataset": report.dataset.model_copy(update={"format": "text"})})
    made = plan_of(spec(metrics=metrics), Inventory(gpu_nodes=(gpu_nodes(),)), inspection=report)
    if not refused:
        assert good(made).evaluation_batch_size > 0
        return
    assert bad(made).reason == Reason.INVALID_SPEC
    assert "rows of format text have no answers" in bad(made).message


@pytest.mark.parametrize(
    ("objective", "facts", "required", "says"),
    [
        ("embedding", {"format": "pair"}, "spearman", "rows of format pair have no scores"),
        ("embedding", {"format": "scored-pair"}, "retrieval_accuracy", "require spearman or loss"),
        ("token-classification", {"labels": {"NOUN": 3, "O": 9}}, "entity_f1", "(NOUN, O, …) are not tags of entities"),
        ("embedding", {"format": "pair"}, "retrieval_accuracy", None),
        ("embedding", {"format": "scored-pair"}, "spearman", None),
        ("token-classification", {"labels": {"B-PER": 3, "O": 9}}, "entity_f1", None),
    ],
)
def test_a_measure_that_these_rows_do_not_have_is_not_required_in_vain(
    objective: str, facts: dict[str, Any], required: str, says: str | None
) -> None:
    whole = spec_of(objective=objective, method="lora").to_json_dict()
    asked = FineTuneJobSpec.model_validate({**whole, "dataset": ROWS, "evaluation": {"require": {required: ">=0.5"}}})
    report = inspected()
    report = report.model_copy(update={"dataset": report.dataset.model_copy(update=facts)})
    found = check_judging(asked, report)
    if says is None:
        assert found is None
        return
    assert found is not None
    assert found.reason == Reason.INVALID_SPEC
    assert found.message.startswith(f"evaluation.require.{required}: ")
    assert says in found.message


NLI = {"metrics": ["entailment"], "entailment": {"uri": "hf://org/nli"}}


def on_cpu(weights: int, **evaluation: Any) -> Plan:
    report = inspected(SMALL).model_copy(update={"entailment_weight_bytes": weights})
    whole = spec_of(SMALL, method="lora", resources={"accelerator": "cpu"}, training={"maxLength": 256}).to_json_dict()
    job = FineTuneJobSpec.model_validate({**whole, "dataset": ROWS, "evaluation": evaluation})
    return good(plan_of(job, cpu_inventory(memory=64 * GIB), inspection=report))


def test_a_pod_on_cpus_has_the_memory_of_the_entailment_model_where_that_is_more_than_the_training() -> None:
    without, small, large = on_cpu(0), on_cpu(GIB // 100, **NLI), on_cpu(20 * GIB, **NLI)
    assert without.resources.memory_bytes == small.resources.memory_bytes, "the training's memory is free by then"
    assert large.resources.memory_bytes > 20 * GIB
    (reason,) = (reason for reason in large.reasons if reason.startswith("evaluation:"))
    assert "20.50 GiB of the entailment model beside the weights" in reason


@pytest.mark.parametrize(("weights", "where"), [(GIB, "beside the weights"), (90 * GIB, "in host memory")])
def test_an_entailment_model_that_no_gpu_holds_lies_in_host_memory_that_the_plan_asks_for(
    weights: int, where: str
) -> None:
    report = inspected().model_copy(update={"entailment_weight_bytes": weights})
    plan = good(plan_of(spec(**NLI), Inventory(gpu_nodes=(gpu_nodes(),)), inspection=report))
    (reason,) = (reason for reason in plan.reasons if reason.startswith("evaluation:"))
    assert f"of the entailment model {where}" in reason
    assert plan.resources.memory_bytes > weights
    assert plan.resources.ephemeral_storage_bytes > weights


def test_a_classifier_that_was_not_looked_at_is_taken_to_be_a_large_one() -> None:
    assert entailment_weights_of(spec(**NLI), None) == 1_420_000_000
    assert entailment_weights_of(spec(), None) == 0


@given(weights=st.integers(0, 10**10), answer=st.integers(0, 4096), gpu=st.integers(0, 200 * GIB), is_gpu=st.booleans())
def test_host_memory_of_an_evaluation_never_falls_with_what_it_holds(
    weights: int, answer: int, gpu: int, is_gpu: bool
) -> None:
    architecture = architecture_of(KNOWN_MODELS[SMALL])
    assert isinstance(architecture, Architecture)
    workload = workload_of(
        spec_of(SMALL, method="lora", resources={} if is_gpu else {"accelerator": "cpu"}),
        sequence_length=256,
        micro_batch=1,
        accumulation=1,
        strategy=Strategy.SINGLE,
        processes=1,
        checkpointing=Checkpointing.NONE,
    )

    def needed(weights: int, answer: int, gpu: int) -> int:
        return judging_host_bytes(
            architecture, workload, tokens=256, answer=answer, entailment_weights=weights, gpu_bytes=gpu
        )

    least = needed(weights, answer, gpu)
    assert least >= judging_weights(architecture, workload)
    assert needed(2 * weights + 1, answer, gpu) >= max(least, 2 * weights)
    assert needed(weights, answer + 64, gpu) >= least
    assert needed(weights, answer, gpu // 2) >= least
