"""The teacher of objective distill in plans: whole in every process, asked once for each batch, and only where processes hold whole models."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB, Phase, Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.testing import (
    H100,
    LLAMA_8B,
    SMALL,
    bad,
    cpu_inventory,
    good,
    inspected,
    plan_of,
    spec_of,
)

BF16_OF_8B = 2 * 8_030_261_248


def planned(teacher: str | None, *, model: str = SMALL, processes: int = 1, **more: Any) -> Any:
    training: dict[str, Any] = {"globalBatchSize": 8, "maxLength": 1024}
    resources = {"gpuProduct": [H100], "gpus": processes, "microBatchSize": 4, **more.pop("resources", {})}
    objective = "sft"
    report = inspected(model)
    if teacher is not None:
        objective, training = "distill", training | {"distill": {"teacher": {"uri": f"hf://{teacher}"}}}
        report = report.model_copy(update={"teacher": inspected(teacher).model})
    spec = spec_of(model, objective=objective, training=training, resources=resources, **{"method": "full", **more})
    return plan_of(spec, inspection=report)


def weights_of(plan: Plan) -> int:
    step = next(phase for phase in plan.memory.phases if phase.phase is Phase.OPTIMIZER_STEP)
    return step.components["weights"]


@pytest.mark.parametrize(("strategy", "processes"), [(Strategy.SINGLE, 1), (Strategy.DDP, 2)])
def test_every_process_holds_the_whole_teacher_in_bfloat16(strategy: Strategy, processes: int) -> None:
    alone, taught = (
        good(planned(teacher, processes=processes, resources={"strategy": strategy})) for teacher in (None, LLAMA_8B)
    )
    assert weights_of(taught) - weights_of(alone) == BF16_OF_8B
    assert any(reason.startswith(f"teacher: hf://{LLAMA_8B}, 14.96 GiB of weights whole") for reason in taught.reasons)


def test_whole_students_alone_learn_from_a_teacher() -> None:
    taught = good(planned(LLAMA_8B, processes=2))
    assert taught.strategy is Strategy.DDP


def test_a_step_takes_the_time_of_the_teachers_pass_and_its_tiles_of_logits() -> None:
    alone, taught = good(planned(None)), good(planned(LLAMA_8B))
    assert alone.throughput is not None
    assert taught.throughput is not None
    # The student's three passes over 0.13B parameters, and one over 8B.
    assert taught.throughput.step_seconds > 5 * alone.throughput.step_seconds
    assert taught.memory.expected_bytes > alone.memory.expected_bytes + BF16_OF_8B + GIB // 2


def test_disk_has_room_for_the_teachers_files() -> None:
    alone, taught = good(planned(None)), good(planned(LLAMA_8B))
    assert taught.resources.ephemeral_storage_bytes - alone.resources.ephemeral_storage_bytes == 16 * GIB


def test_a_teacher_too_large_for_a_gpu_is_told_with_what_it_takes() -> None:
    error = bad(planned(LLAMA_8B, resources={"gpuProduct": ["Tesla-T4"]}))
    assert error.reason == Reason.DOES_NOT_FIT
    assert "needs up to" in error.message


def test_without_an_inspection_the_teacher_is_taken_to_be_as_large_as_the_student() -> None:
    training = {"distill": {"teacher": {"uri": "hf://org/teacher"}}}
    spec = spec_of(SMALL, objective="distill", training=training, resources={"accelerator": "cpu"}, method="lora")
    plan = good(plan_of(spec, cpu_inventory()))
    assert any(text.startswith("teacher: nothing was inspected") for text in plan.assumptions)


def test_a_teacher_whose_memory_is_not_known_is_refused() -> None:
    training = {"distill": {"teacher": {"uri": "hf://org/teacher"}}}
    spec = spec_of(SMALL, objective="distill", training=training, method="lora")
    report = inspected(SMALL)
    facts = report.model.model_copy(update={"config": {"model_type": "unheard-of"}})
    error = bad(plan_of(spec, inspection=report.model_copy(update={"teacher": facts})))
    assert error.message.startswith("training.distill.teacher: the memory of")
