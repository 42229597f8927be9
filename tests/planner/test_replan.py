"""After an OOM: the next plan is smaller by what was missing, keeps the global batch, and there is an end."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Offload, Strategy
from finetune_operator.api.methods import Method
from finetune_operator.api.plan import GIB, Phase, Plan, PlanError
from finetune_operator.api.progress import MemoryShortage
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.pools import GPU_RESERVE
from finetune_operator.planner.replan import MOST_REPLANS, RanOut, replan
from finetune_operator.planner.testing import (
    A10G,
    H100,
    LLAMA_8B,
    SMALL,
    T4,
    bad,
    cpu_inventory,
    good,
    inspected,
    plan_of,
    spec_of,
)

A10Gs = catalogue_inventory((A10G,))


def answer_after(
    failure: RanOut, resources: dict[str, Any], inventory: Inventory = A10Gs, **job: Any
) -> Plan | PlanError:
    return replan(spec_of(resources=resources, **job), inspected(), inventory, failure)


def shortage(held: int = 0, requested: int = 0, phase: Phase | None = None) -> MemoryShortage:
    return MemoryShortage(
        held_bytes=held, allocated_bytes=held, reserved_bytes=held, requested_bytes=requested, phase=phase
    )


def first_plan(resources: dict[str, Any], inventory: Inventory = A10Gs, **job: Any) -> Plan:
    return good(plan_of(spec_of(resources=resources, **job), inventory, inspection=inspected()))


def test_activations_are_computed_again_first() -> None:
    job: dict[str, Any] = {"method": "qlora", "training": {"maxLength": 512}}
    plan = first_plan({"gpus": 1, "microBatchSize": 2, "gradientCheckpointing": "none"}, **job)
    again = good(answer_after(RanOut(plan), {"gpus": 1}, **job))
    assert again.gradient_checkpointing is Checkpointing.FULL
    assert (again.micro_batch_size, again.processes) == (plan.micro_batch_size, plan.processes)
    assert again.reasons[0].startswith(
        "replan 1 of 3: the plan before ran out of GPU memory: it needed 22.5 GiB or more"
    )
    assert again.reasons[0].endswith("changed: gradient checkpointing none → full")


def test_then_micro_batches_become_smaller() -> None:
    wish = {"gpus": 1, "gradientCheckpointing": "full"}
    job: dict[str, Any] = {"method": "qlora", "training": {"maxLength": 2048}}
    plan = first_plan({**wish, "microBatchSize": 8}, **job)
    again = good(answer_after(RanOut(plan), wish, **job))
    assert again.micro_batch_size < plan.micro_batch_size
    assert (again.strategy, again.processes, again.gpu_product) == (plan.strategy, plan.processes, plan.gpu_product)


def test_then_more_gpus_are_taken_as_far_as_the_job_allows() -> None:
    wish = {"microBatchSize": 1, "gradientCheckpointing": "full"}
    job: dict[str, Any] = {"method": "lora", "training": {"maxLength": 512}}
    plan = first_plan({**wish, "maxGPUs": 4}, **job)
    assert plan.processes == 1
    again = good(answer_after(RanOut(plan), {**wish, "maxGPUs": 4}, **job))
    assert again.processes > 1
    assert again.strategy is Strategy.FSDP
    error = bad(answer_after(RanOut(plan), {**wish, "maxGPUs": 1}, **job))
    assert error.reason == Reason.DOES_NOT_FIT
    assert "resources.maxGPUs" in error.message


def test_of_the_strategies_that_shard_the_one_that_reads_the_checkpoints_comes_first() -> None:
    wish = {"gpus": 2, "microBatchSize": 1, "gradientCheckpointing": "full"}
    job: dict[str, Any] = {"method": "lora", "lora": {"rank": 800}, "training": {"maxLength": 512}}
    nodes = catalogue_inventory((H100,))
    plan = first_plan({**wish, "strategy": "ddp"}, nodes, **job)
    again = good(answer_after(RanOut(plan), wish, nodes, **job))
    assert (plan.strategy, again.strategy) == (Strategy.DDP, Strategy.FSDP)


def test_then_larger_gpus() -> None:
    both = catalogue_inventory((A10G, H100))
    wish = {"microBatchSize": 1, "gradientCheckpointing": "full", "gpus": 1}
    job: dict[str, Any] = {"method": "lora", "training": {"maxLength": 512}}
    plan = first_plan(wish, A10Gs, **job)
    again = good(answer_after(RanOut(plan), wish, both, **job))
    assert (plan.gpu_product, again.gpu_product) == (A10G, H100)
    assert "GPU type" in again.reasons[0]


def test_what_the_user_has_set_is_kept() -> None:
    wish = {"gpus": 2, "strategy": "ddp", "microBatchSize": 2, "gradientCheckpointing": "none", "gpuProduct": [H100]}
    job: dict[str, Any] = {"method": "lora", "training": {"maxLength": 512}}
    plan = first_plan(wish, catalogue_inventory((H100,)), **job)
    error = bad(answer_after(RanOut(plan), wish, catalogue_inventory((H100,)), **job))
    assert "remove overrides under resources" in error.message


def test_the_phase_that_failed_must_become_smaller() -> None:
    """Loading takes the same whatever the micro-batch: only other GPUs help."""
    wish = {"gpus": 1, "gpuProduct": [A10G]}
    plan = first_plan(wish, method="lora", training={"maxLength": 512})
    error = bad(
        answer_after(RanOut(plan, shortage(phase=Phase.LOAD)), wish, method="lora", training={"maxLength": 512})
    )
    assert "in phase load" in error.message


def test_the_fourth_out_of_memory_is_the_last() -> None:
    plan = first_plan({"gpus": 8}, method="lora")
    error = bad(answer_after(RanOut(plan.model_copy(update={"replans": MOST_REPLANS})), {"gpus": 8}, method="lora"))
    assert "replan 3 of 3" in error.message


def test_jobs_without_gpus_are_told_what_helps_them() -> None:
    spec = spec_of(SMALL, resources={"accelerator": "cpu"})
    plan = good(plan_of(spec, cpu_inventory()))
    assert (
        "resources.pods" in bad(replan(spec, None, cpu_inventory(), RanOut(plan), config=KNOWN_MODELS[SMALL])).message
    )


def test_the_next_plan_keeps_free_what_was_measured_to_be_missing_and_remembers_it() -> None:
    wish = {"gpus": 1, "gradientCheckpointing": "full"}
    job: dict[str, Any] = {"method": "qlora", "training": {"maxLength": 2048}}
    plan = first_plan({**wish, "microBatchSize": 8}, **job)
    blind = good(answer_after(RanOut(plan), wish, **job))
    told = good(answer_after(RanOut(plan, shortage(21 * GIB, 6 * GIB)), wish, **job))
    assert told.micro_batch_size < blind.micro_batch_size
    assert (told.replans, told.kept_free_bytes > blind.kept_free_bytes) == (1, True)
    again = RanOut(told, shortage(phase=Phase.BACKWARD))
    assert (again.number, again.kept_free_bytes >= told.kept_free_bytes) == (2, True)


def test_where_only_the_nodes_are_missing_it_waits_for_them() -> None:
    plan = first_plan({"gpus": 8}, method="lora")
    assert bad(answer_after(RanOut(plan), {"gpus": 8}, Inventory(), method="lora")).waits


@settings(max_examples=60)
@given(
    st.sampled_from(list(Method)),
    st.sampled_from([SMALL, LLAMA_8B]),
    st.fixed_dictionaries(
        {"objectiveOfPlan": st.sampled_from(["cheapest", "fastest"])},
        optional={
            "gpus": st.sampled_from([1, 8]),
            "gpuProduct": st.sampled_from([[T4], [A10G], [A10G, H100]]),
            "gradientCheckpointing": st.sampled_from(["none", "full"]),
            "microBatchSize": st.just(1),
        },
    ),
    st.lists(st.tuples(st.floats(0.0, 1.6), st.sampled_from([None, *Phase])), min_size=4, max_size=4),
)
def test_it_ends_keeps_the_global_batch_and_gains_more_than_was_missing(
    method: Method, model: str, resources: dict[str, Any], measured: list[tuple[float, Phase | None]]
) -> None:
    assume(method is not Method.PREFIX or resources.get("gradientCheckpointing") != "full")  # is refused
    inventory = catalogue_inventory((T4, A10G, H100))
    spec, inspection = spec_of(model, method=str(method), resources=resources), inspected(model)
    answer = plan_of(spec, inventory, inspection=inspection)
    failures = 0
    for share, phase in measured:
        if isinstance(answer, PlanError):
            break
        failed = RanOut(answer, shortage(round(share * (answer.gpu_memory_bytes or 0)), phase=phase))
        failures += 1
        answer = replan(spec, inspection, inventory, failed)
        assert answer == replan(spec, inspection, inventory, failed)
        if isinstance(answer, Plan):
            assert answer.replans == failures
            assert answer.global_batch_size == failed.plan.global_batch_size
            assert room(answer) - room(failed.plan) >= failed.needed_bytes - usable(failed.plan) > 0
            if answer.gpu_product == failed.plan.gpu_product:
                assert answer.memory.upper_bytes < failed.plan.memory.upper_bytes
    assert isinstance(answer, PlanError)
    assert failures <= MOST_REPLANS + 1


def usable(plan: Plan) -> int:
    return round((plan.gpu_memory_bytes or 0) * (1 - GPU_RESERVE))


def room(plan: Plan) -> int:
    """What a GPU has left when the formulas are right."""
    return usable(plan) - plan.memory.upper_bytes


def test_local_disk_is_kept_where_the_spec_asks_for_it_and_is_not_what_a_replan_falls_back_on() -> None:
    nodes = catalogue_inventory((H100,))
    asked: dict[str, Any] = {"gpus": 8, "offload": "nvme"}
    plan = first_plan({**asked, "microBatchSize": 2, "gradientCheckpointing": "none"}, nodes, method="full")
    again = good(answer_after(RanOut(plan), asked, nodes, method="full"))
    assert (plan.offload, again.offload) == (Offload.NVME, Offload.NVME)

    free: dict[str, Any] = {"gpus": 8}
    last: Plan | PlanError = first_plan(
        {**free, "microBatchSize": 2, "gradientCheckpointing": "none"}, nodes, method="full"
    )
    seen = []
    while isinstance(last, Plan):
        seen.append(last.offload)
        last = answer_after(RanOut(last), free, nodes, method="full")
    assert len(seen) > 1
    assert Offload.NVME not in seen
