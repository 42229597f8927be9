"""The evaluation after the training in a plan: batches that fit the first pod, and rows that have answers."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.plan import Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.testing import bad, good, gpu_nodes, inspected, plan_of, spec_of

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
