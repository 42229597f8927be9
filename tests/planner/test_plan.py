"""What the planner decides, and what it never does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.compatibility import Checkpointing, Method, Strategy
from finetune_operator.api.inspection import DatasetFacts, InspectionReport, ModelFacts, TokenHistogram
from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.workload import FLOAT32_MASTER, numerics_of
from finetune_operator.planner.catalogue import catalogue_inventory
from finetune_operator.planner.host import DISK_BASE_BYTES
from finetune_operator.planner.inventory import CpuNodes, GpuNodes, Inventory
from finetune_operator.planner.known_models import KNOWN_MODELS
from finetune_operator.planner.plan import make_plan, total_steps
from finetune_operator.planner.pools import GPU_RESERVE

LLAMA_8B = "meta-llama/Meta-Llama-3-8B"
SMALL = "HuggingFaceTB/SmolLM2-135M"
H100, A10G, T4 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A10G", "Tesla-T4"


def spec_of(model: str = LLAMA_8B, *, training: Any = None, resources: Any = None, **tuning: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"hf://{model}"},
            "dataset": {"uri": "s3://data/rows.jsonl"},
            "output": {"uri": "s3://models/tuned"},
            "tuning": tuning,
            "training": training or {},
            "resources": resources or {},
        }
    )


def gpu_nodes(product: str = H100, **changes: Any) -> GpuNodes:
    nodes = catalogue_inventory((product,)).gpu_nodes[0]
    return nodes.model_copy(update=changes)


def cpu_inventory(nodes: int = 1, memory: int = 24 * GIB, millicores: int = 2000) -> Inventory:
    return Inventory(cpu_nodes=(CpuNodes(nodes=nodes, cpu_millicores=millicores, memory_bytes=memory),))


def inspected(model: str = LLAMA_8B, *, rows: int = 1000, longest: int = 5000) -> InspectionReport:
    tokens = TokenHistogram(
        edges=(1, longest + 1),
        counts=(rows,),
        minimum=1,
        maximum=longest,
        mean=9.0,
        median=9,
        percentile_99=longest,
        total=rows,
    )
    facts = ModelFacts(
        uri=f"hf://{model}",
        revision="",
        architecture="LlamaForCausalLM",
        config=dict(KNOWN_MODELS[model]),
        parameters=1,
        weight_bytes=16 * GIB,
        dtypes={},
        files=(),
    )
    data = DatasetFacts(uri="s3://data/rows.jsonl", format="messages", files=(), rows=rows, tokens=tokens)
    return InspectionReport(
        key="k", job="team/tune", finished_at="2026-11-21T10:00:00Z", seconds=1.0, model=facts, dataset=data
    )


def plan_of(spec: FineTuneJobSpec, inventory: Inventory | None = None, **more: Any) -> Plan | PlanError:
    config = KNOWN_MODELS[spec.model.uri.removeprefix("hf://")]
    return make_plan(spec, more.pop("inspection", None), inventory or catalogue_inventory(), config=config, **more)


def good(answer: Plan | PlanError) -> Plan:
    assert isinstance(answer, Plan), answer
    return answer


def bad(answer: Plan | PlanError) -> PlanError:
    assert isinstance(answer, PlanError), answer
    return answer


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


def test_one_gpu_is_taken_where_one_is_enough() -> None:
    plan = good(plan_of(spec_of(method="lora"), Inventory(gpu_nodes=(gpu_nodes(),))))
    assert (plan.processes, plan.strategy) == (1, Strategy.SINGLE)


def test_fastest_takes_all_gpus_that_it_may() -> None:
    spec = spec_of(method="lora", resources={"objectiveOfPlan": "fastest", "maxGPUs": 4})
    assert good(plan_of(spec, Inventory(gpu_nodes=(gpu_nodes(),)))).processes == 4


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


def test_two_cpu_pods_on_one_small_node_leave_room_for_others() -> None:
    resources = {"accelerator": "cpu", "processes": 2, "pods": 2}
    plan = good(plan_of(spec_of(SMALL, resources=resources, training={"maxLength": 256}), cpu_inventory()))
    assert plan.pods == 2
    assert plan.resources.cpu_millicores * 2 <= 1000
    assert plan.resources.memory_bytes * 2 < 24 * GIB


def test_cpu_processes_spread_over_pods_where_one_node_has_too_little_memory() -> None:
    resources = {"accelerator": "cpu", "processes": 4}
    spec = spec_of(SMALL, method="lora", resources=resources, training={"maxLength": 256, "globalBatchSize": 4})
    one = good(plan_of(spec, cpu_inventory(nodes=4, memory=64 * GIB)))
    several = good(plan_of(spec, cpu_inventory(nodes=4, memory=6 * GIB)))
    assert one.pods == 1
    assert several.pods > 1


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


def test_the_proposed_hardware_does_fit() -> None:
    error = bad(plan_of(spec_of(method="full", resources={"gpuProduct": [A10G], "gpus": 1})))
    proposal = error.message.split("it needs ")[1].split(" × ")[0]
    good(plan_of(spec_of(method="full", resources={"gpuProduct": [A10G], "gpus": int(proposal)})))


def test_overrides_that_are_too_large_only_together_are_named_together() -> None:
    resources = {"gpuProduct": [A10G], "gpus": 1, "microBatchSize": 64, "gradientCheckpointing": "none"}
    error = bad(plan_of(spec_of(method="qlora", resources=resources)))
    assert error.reason == Reason.DOES_NOT_FIT
    proposed = re.search(r"resources.microBatchSize: (\d+) with resources.gradientCheckpointing: full", error.message)
    assert proposed is not None, error.message
    changed = {**resources, "microBatchSize": int(proposed[1]), "gradientCheckpointing": "full"}
    good(plan_of(spec_of(method="qlora", resources=changed)))
    bad(plan_of(spec_of(method="qlora", resources={**changed, "microBatchSize": 2 * int(proposed[1])})))


def test_a_node_with_too_little_host_memory_is_not_planned_for() -> None:
    tight = gpu_nodes(H100, host_memory_bytes=16 * GIB)
    error = bad(plan_of(spec_of(method="full", resources={"gpus": 8}), Inventory(gpu_nodes=(tight,))))
    assert error.reason == Reason.DOES_NOT_FIT
    assert "memory" in error.message


def test_a_node_with_too_little_disk_is_not_planned_for() -> None:
    tight = gpu_nodes(H100, ephemeral_storage_bytes=10 * GIB)
    error = bad(plan_of(spec_of(method="lora"), Inventory(gpu_nodes=(tight,))))
    assert "local disk" in error.message


@pytest.mark.parametrize(("strategy", "bytes_per_parameter"), [("ddp", 12), ("fsdp", 16), ("zero2", 16)])
def test_the_disk_holds_the_checkpoint_that_was_resumed_from_and_the_last_one(
    strategy: str, bytes_per_parameter: int
) -> None:
    """Bytes per parameter as measured of last checkpoints of full training, with tests/trainer's tiny model on two processes."""
    resources = {"gpus": 2, "strategy": strategy}
    plan = good(plan_of(spec_of("meta-llama/Llama-3.2-1B", method="full", resources=resources)))
    assert plan.resources.ephemeral_storage_bytes >= 2 * bytes_per_parameter * plan.total_parameters + DISK_BASE_BYTES


def test_no_disk_is_planned_where_the_nodes_do_not_say_what_they_have() -> None:
    plan = good(plan_of(spec_of(), Inventory(gpu_nodes=(gpu_nodes(ephemeral_storage_bytes=0),))))
    assert plan.resources.ephemeral_storage_bytes == 0


def test_without_nodes_of_the_kind_the_plan_waits() -> None:
    for spec, inventory in (
        (spec_of(), Inventory()),
        (spec_of(resources={"gpuProduct": ["NVIDIA-B300"]}), catalogue_inventory()),
        (spec_of(resources={"gpus": 16}), Inventory(gpu_nodes=(gpu_nodes(nodes=1),))),
        (spec_of(SMALL, resources={"accelerator": "cpu"}), Inventory()),
    ):
        error = bad(plan_of(spec, inventory))
        assert error.reason == Reason.NO_CAPACITY
        assert error.waits


def test_shared_gpus_are_used_one_at_a_time_only() -> None:
    shared = Inventory(gpu_nodes=(gpu_nodes(shared=True),))
    assert good(plan_of(spec_of(method="lora"), shared)).processes == 1
    error = bad(plan_of(spec_of(method="lora", resources={"gpus": 2}), shared))
    assert "shared" in error.message


def test_lora_targets_that_the_model_lacks_are_refused_with_those_it_has() -> None:
    error = bad(plan_of(spec_of(method="lora", lora={"targets": ["query"]})))
    assert error.reason == Reason.INVALID_SPEC
    assert "query" in error.message
    assert "q_proj" in error.message


def test_an_unknown_architecture_is_named() -> None:
    error = bad(make_plan(spec_of(), None, catalogue_inventory(), config={"model_type": "rwkv"}))
    assert error.reason == Reason.UNKNOWN_ARCHITECTURE


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


def test_the_plan_says_what_was_binding_and_what_else_would_fit() -> None:
    plan = good(plan_of(spec_of(method="lora")))
    assert plan.reasons[0].startswith("chosen, cheapest of what fits: ")
    assert sum(reason.startswith("would also fit: ") for reason in plan.reasons) == 3
    assert any(reason.startswith("binding: ") for reason in plan.reasons)


@st.composite
def jobs(draw: st.DrawFn) -> FineTuneJobSpec:
    method = draw(st.sampled_from(list(Method)))
    resources: dict[str, Any] = {}
    if draw(st.booleans()):
        resources["gpus"] = draw(st.sampled_from([1, 2, 4, 8, 16]))
    if draw(st.booleans()):
        resources["gpuProduct"] = draw(
            st.lists(st.sampled_from([H100, A10G, T4, "NVIDIA-L40S"]), min_size=1, unique=True)
        )
    if draw(st.booleans()):
        resources["strategy"] = draw(st.sampled_from(["ddp", "fsdp"]))
    resources["gradientCheckpointing"] = draw(st.sampled_from(["auto", "none", "full"]))
    resources["objectiveOfPlan"] = draw(st.sampled_from(["cheapest", "fastest"]))
    training = {
        "globalBatchSize": draw(st.sampled_from([1, 6, 16, 64, 96])),
        "maxLength": draw(st.sampled_from([128, 1024, 8192])),
    }
    model = draw(st.sampled_from([SMALL, LLAMA_8B, "Qwen/Qwen2.5-32B", "openai-community/gpt2"]))
    return spec_of(model, method=str(method), training=training, resources=resources)


@settings(deadline=None)
@given(jobs())
def test_a_plan_keeps_the_global_batch_fits_and_is_always_the_same(spec: FineTuneJobSpec) -> None:
    inventory = catalogue_inventory((H100, A10G, T4, "NVIDIA-L40S"))
    answer = plan_of(spec, inventory)
    shuffled = inventory.model_copy(update={"gpu_nodes": inventory.gpu_nodes[::-1]})
    assert plan_of(spec, shuffled) == answer
    if isinstance(answer, PlanError):
        assert len(answer.message) > 40
        return
    assert answer.micro_batch_size * answer.gradient_accumulation * answer.processes == spec.training.global_batch_size
    assert answer.pods * answer.processes_per_pod == answer.processes
    assert answer.gpu_memory_bytes is not None
    assert answer.memory.upper_bytes <= answer.gpu_memory_bytes * (1 - GPU_RESERVE) + 1
    assert Plan.model_validate(answer.to_json_dict()) == answer


def test_every_known_model_has_a_plan() -> None:
    for name in KNOWN_MODELS:
        assert isinstance(architecture_of(KNOWN_MODELS[name]), Architecture)
        good(plan_of(spec_of(name, method="lora", resources={"gpus": 8})))
