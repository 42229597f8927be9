"""When states go to host memory: where nothing else fits, or where the user asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.compatibility import Offload, Strategy
from finetune_operator.api.plan import GIB
from finetune_operator.api.reasons import Reason
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.testing import H100, bad, good, gpu_nodes, plan_of, spec_of

LLAMA_70B = "meta-llama/Llama-3.1-70B"
EIGHT: dict[str, Any] = {"gpuProduct": [H100], "gpus": 8}
BATCH: dict[str, Any] = {"globalBatchSize": 16, "maxLength": 2048}


def test_offload_is_planned_where_nothing_else_fits_and_the_pod_asks_for_the_host_memory() -> None:
    plan = good(plan_of(spec_of(LLAMA_70B, method="full", training=BATCH, resources=EIGHT)))
    assert plan.offload is not Offload.NONE
    assert plan.resources.memory_bytes > 12 * plan.total_parameters
    assert "in host memory" in plan.reasons[0]
    assert plan.memory_key.endswith("offloaded")


def test_offload_is_not_planned_where_something_else_fits() -> None:
    plan = good(plan_of(spec_of(method="full", resources=EIGHT)))
    assert plan.offload is Offload.NONE
    assert not any("in host memory" in reason for reason in plan.reasons)


def test_a_job_that_forbids_offload_is_refused_as_before() -> None:
    error = bad(plan_of(spec_of(LLAMA_70B, method="full", training=BATCH, resources={**EIGHT, "offload": "none"})))
    assert error.reason == Reason.DOES_NOT_FIT


def test_nodes_without_the_host_memory_are_no_help() -> None:
    nodes = Inventory(gpu_nodes=(gpu_nodes(H100, host_memory_bytes=512 * GIB),))
    error = bad(plan_of(spec_of(LLAMA_70B, method="full", training=BATCH, resources=EIGHT), nodes))
    assert error.reason == Reason.DOES_NOT_FIT


@pytest.mark.parametrize(
    ("strategy", "offload"),
    [("fsdp", "parameters"), ("zero1", "optimizer"), ("zero3", "parameters")],
)
def test_what_the_user_asks_for_is_planned_and_takes_less_of_the_gpu_and_more_time(strategy: str, offload: str) -> None:
    plain = good(plan_of(spec_of(method="full", resources={**EIGHT, "strategy": strategy, "microBatchSize": 1})))
    wanted = {**EIGHT, "strategy": strategy, "offload": offload, "microBatchSize": 1}
    moved = good(plan_of(spec_of(method="full", resources=wanted)))
    assert (moved.strategy, moved.offload) == (Strategy(strategy), Offload(offload))
    assert moved.memory.upper_bytes < plain.memory.upper_bytes
    assert moved.resources.memory_bytes > plain.resources.memory_bytes
    assert moved.throughput is not None
    assert plain.throughput is not None
    assert moved.throughput.step_seconds > plain.throughput.step_seconds


def test_one_gpu_has_nobody_to_share_with() -> None:
    error = bad(plan_of(spec_of(method="full", resources={"gpus": 1, "offload": "optimizer"})))
    assert error.reason == Reason.INVALID_SPEC
    assert "resources.gpus: 2" in error.message


def test_local_disk_holds_what_host_memory_lacks_where_the_user_asks_for_it() -> None:
    wanted: dict[str, Any] = {**EIGHT, "strategy": "zero3", "offload": "optimizer"}
    spec = spec_of(LLAMA_70B, method="full", training=BATCH, resources=wanted)
    small = Inventory(gpu_nodes=(gpu_nodes(H100, host_memory_bytes=768 * GIB),))
    on_disk = spec_of(LLAMA_70B, method="full", training=BATCH, resources={**wanted, "offload": "nvme"})
    assert bad(plan_of(spec, small)).reason == Reason.DOES_NOT_FIT

    in_memory, swapped = good(plan_of(spec)), good(plan_of(on_disk, small))

    parameters = swapped.trainable_parameters
    assert in_memory.resources.memory_bytes - swapped.resources.memory_bytes > 12 * parameters
    more = swapped.resources.ephemeral_storage_bytes - in_memory.resources.ephemeral_storage_bytes
    assert more == pytest.approx(16 * parameters, rel=0.001)
    assert any(reason.startswith("offload nvme: ") for reason in swapped.reasons)
    assert in_memory.throughput is not None
    assert swapped.throughput is not None
    assert swapped.throughput.step_seconds - in_memory.throughput.step_seconds > 32 * parameters / 3e9 * 0.9


def test_nobody_gets_local_disk_who_did_not_ask_for_it() -> None:
    nodes = Inventory(gpu_nodes=(gpu_nodes(H100, host_memory_bytes=512 * GIB),))
    bad(plan_of(spec_of(LLAMA_70B, method="full", training=BATCH, resources={**EIGHT, "strategy": "zero3"}), nodes))


def test_nodes_with_too_little_local_disk_are_no_help() -> None:
    nodes = Inventory(gpu_nodes=(gpu_nodes(H100, ephemeral_storage_bytes=2048 * GIB),))
    error = bad(
        plan_of(spec_of(LLAMA_70B, method="full", training=BATCH, resources={**EIGHT, "offload": "nvme"}), nodes)
    )
    assert "local disk" in error.message
