"""What grpo and rloo take: sequences are answers, all of a step are generated at once, and the KL penalty asks one model more."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.plan import GIB, Phase, Plan
from finetune_operator.planner.testing import H100, LLAMA_8B, SMALL, bad, good, inspected, plan_of, spec_of


def spec(
    objective: str, *, strategy: str = "single", method: str = "lora", resources: Any = None, **settings: Any
) -> Any:
    block = {"rewards": [{"verifier": "exact-number"}], "generations": 8, "maxCompletionLength": 256, **settings}
    made = spec_of(
        SMALL,
        training={"globalBatchSize": 64, "maxLength": 1024, "epochs": 1},
        resources={"strategy": strategy, "gpus": 1 if strategy == "single" else 2, **(resources or {})},
        method=method,
    )
    document = made.to_json_dict()
    document["training"][objective] = block
    return made.model_validate({**document, "objective": objective})


def planned(objective: str, **how: Any) -> Plan:
    return good(plan_of(spec(objective, **how), inspection=inspected(SMALL, rows=1000, longest=128)))


def of_phase(plan: Plan, phase: Phase) -> int:
    return next(found.total for found in plan.memory.phases if found.phase is phase)


def test_an_epoch_answers_every_prompt_in_every_generation_and_answers_add_to_the_length() -> None:
    plan = planned("grpo")

    assert plan.total_steps == 1000 * 8 // 64
    assert plan.max_length <= 1024
    assert planned("grpo", generations=4).total_steps == 1000 * 4 // 64 + 1


def test_all_answers_of_a_step_are_generated_at_once() -> None:
    size = {"microBatchSize": 4, "gradientCheckpointing": "none"}
    short, long = (planned("grpo", resources=size, maxCompletionLength=tokens) for tokens in (64, 512))

    assert short.gradient_accumulation == 16
    cached = 2 * 30 * 2 * 3 * 64  # bytes of bfloat16 keys and values in 30 layers with 3 heads of 64
    assert of_phase(long, Phase.GENERATION) - of_phase(short, Phase.GENERATION) == pytest.approx(
        cached * 64 * (512 - 64),
        rel=0.08,  # and what the allocator leaves unused
    )


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_the_kl_penalty_of_a_whole_model_takes_four_bytes_per_parameter(objective: str) -> None:
    small = {"microBatchSize": 1}
    free = planned(objective, method="full", resources=small, beta=0)
    held = planned(objective, method="full", resources=small, beta=0.1)

    assert (held.memory.expected_bytes - free.memory.expected_bytes) / held.total_parameters == pytest.approx(
        4, abs=0.3
    )
    assert any(reason.startswith("reference: a frozen copy") for reason in held.reasons)
    assert not any(reason.startswith("reference: ") for reason in free.reasons)


def test_auto_does_not_shard_a_whole_model_that_is_compared_with_a_copy() -> None:
    assert planned("rloo", strategy="auto", method="full").strategy in ("single", "ddp")


def test_rloo_takes_longer_than_grpo_since_answers_pass_through_the_model_once_more() -> None:
    assert planned("rloo", beta=0).throughput.step_seconds > planned("grpo", beta=0).throughput.step_seconds


def test_generation_makes_a_step_longer() -> None:
    assert (
        planned("grpo", maxCompletionLength=512).throughput.step_seconds
        > 1.5 * planned("grpo", maxCompletionLength=256).throughput.step_seconds
    )


BY_MODEL: Any = {"rewards": [{"model": {"uri": "s3://models/judge"}}]}


def judged(judge: str = LLAMA_8B, **config: Any) -> InspectionReport:
    """A report on SMALL with a reward model like another one."""
    facts = inspected(judge).model
    found = facts.model_copy(update={"uri": "s3://models/judge", "config": {**facts.config, **config}})
    return inspected(SMALL, rows=1000, longest=128).model_copy(update={"reward_models": (found,)})


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "zero3"])
def test_a_reward_model_is_whole_in_every_process_in_two_bytes_per_parameter(strategy: str) -> None:
    how: Any = {"strategy": strategy, "resources": {"microBatchSize": 1, "gpuProduct": [H100]}}
    alone = planned("rloo", **how)
    with_judge = good(plan_of(spec("rloo", **how, **BY_MODEL), inspection=judged()))

    without_head = 8_030_261_248 - 128_256 * 4096 + 4096
    for phase in (Phase.BACKWARD, Phase.OPTIMIZER_STEP):
        assert of_phase(with_judge, phase) - of_phase(alone, phase) == pytest.approx(2 * without_head, rel=0.03)
    assert (
        f"rewards: a reward model, whole and frozen in every process: {2 * without_head / GIB:.2f} GiB of weights"
        in (with_judge.reasons)
    )
    pod = with_judge.resources
    assert pod.memory_bytes - alone.resources.memory_bytes == pytest.approx(2 * without_head * pod.gpus, rel=0.01)
    assert with_judge.resources.ephemeral_storage_bytes - alone.resources.ephemeral_storage_bytes == 16 * GIB
    assert with_judge.throughput.step_seconds > alone.throughput.step_seconds


def test_scoring_takes_memory_by_the_tokens_of_a_micro_batch() -> None:
    def of_generation(micro_batch: int) -> int:
        size = {"microBatchSize": micro_batch, "gradientCheckpointing": "none"}
        wide = judged(hidden_size=16384, intermediate_size=65536)
        short = spec("rloo", resources=size, maxCompletionLength=8, **BY_MODEL)
        return of_phase(good(plan_of(short, inspection=wide)), Phase.GENERATION)

    per_token = (
        2 * (2 * 16384 + 3 * 65536) + 4 * 16384
    )  # stream, gate, up and product in bfloat16, and the norm's float32
    longest = 136  # prompt and answer
    mask = 3 * 2 * longest
    assert of_generation(64) - of_generation(16) == pytest.approx(48 * longest * (per_token + mask), rel=0.1)


def test_a_reward_model_that_cannot_be_sized_is_refused_by_its_name() -> None:
    error = bad(plan_of(spec("grpo", **BY_MODEL), inspection=judged(model_type="unheard-of")))

    assert error.message.startswith("rewards.model.uri: s3://models/judge cannot be sized beside the model: ")


def test_without_an_inspection_a_reward_model_is_taken_to_be_as_large_as_the_model() -> None:
    plan = good(plan_of(spec("grpo", **BY_MODEL), rows=1000))

    assert any(said.startswith("rewards: s3://models/judge was not looked at") for said in plan.assumptions)
    assert any(reason.startswith("rewards: a reward model") for reason in plan.reasons)
