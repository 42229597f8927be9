"""The plan of a job that starts from another job's checkpoint can load it, or there is none."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.inspection import InspectionReport, ResumePoint
from finetune_operator.api.plan import Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.testing import SMALL, bad, good, inspected, plan_of, spec_of


def resumed(strategy: Strategy, processes: int, step: int = 3) -> InspectionReport:
    point = ResumePoint(uri="s3://a/b", job="team/first", step=step, strategy=strategy, processes=processes)
    return inspected(SMALL).model_copy(update={"resume": point})


def answer(inspection: InspectionReport, **resources: Any) -> Plan | PlanError:
    return plan_of(spec_of(SMALL, method="full", resources=resources), inspection=inspection)


def test_strategy_and_processes_are_those_that_can_load_it() -> None:
    plan = good(answer(resumed(Strategy.ZERO3, 4)))
    assert (plan.strategy, plan.processes) == (Strategy.ZERO3, 4)
    assert good(answer(resumed(Strategy.ZERO2, 4), gpus=2)).strategy in (Strategy.ZERO1, Strategy.ZERO2)
    assert good(answer(resumed(Strategy.DDP, 8))).strategy is good(answer(inspected(SMALL))).strategy


def test_resources_that_exclude_it_are_refused_with_those_that_would_do() -> None:
    error = bad(answer(resumed(Strategy.ZERO3, 4), gpus=2))
    assert error.reason == Reason.INVALID_SPEC
    assert "s3://a/b cannot be resumed: it was written with strategy zero3 and the plan has ddp" in error.message
    assert error.message.endswith("set resources.strategy: zero3 and resources.gpus: 4")


def test_states_on_local_disk_go_on_there_alone() -> None:
    report = resumed(Strategy.ZERO3, 4)
    assert report.resume is not None
    swapped = report.model_copy(update={"resume": report.resume.model_copy(update={"offload": "nvme"})})
    assert good(answer(swapped, offload="nvme")).processes == 4
    assert "on local disk and the plan has them in memory" in bad(answer(swapped, strategy="zero3", gpus=4)).message
    assert bad(answer(swapped)).message.endswith("zero3 and resources.gpus: 4, and resources.offload: nvme")
    assert bad(answer(report, offload="nvme")).message.endswith("and resources.offload: none")


def test_a_checkpoint_of_the_last_step_or_later_leaves_nothing_to_train() -> None:
    steps = good(answer(inspected(SMALL))).total_steps
    assert "raise training.epochs or training.maxSteps" in bad(answer(resumed(Strategy.DDP, 2, steps))).message
    good(answer(resumed(Strategy.DDP, 2, steps - 1)))
