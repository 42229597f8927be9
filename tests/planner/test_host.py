"""What pods ask of their nodes beside GPUs, and nodes that lack it."""

from __future__ import annotations

import pytest

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.plan import GIB
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import Cache
from finetune_operator.api.trainer import Trainer
from finetune_operator.memory.runtime import MIB
from finetune_operator.planner.encoded_rows import BYTES_PER_ROW, REFERENCE_BYTES, encoded_bytes
from finetune_operator.planner.host import DISK_BASE_BYTES, UPLOAD_BYTES
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.testing import (
    H100,
    SMALL,
    bad,
    cpu_inventory,
    good,
    gpu_nodes,
    inspected,
    plan_of,
    spec_of,
)


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


def test_a_node_with_too_little_host_memory_is_not_planned_for() -> None:
    tight = gpu_nodes(H100, host_memory_bytes=16 * GIB)
    error = bad(plan_of(spec_of(method="full", resources={"gpus": 8}), Inventory(gpu_nodes=(tight,))))
    assert error.reason == Reason.DOES_NOT_FIT
    assert "memory" in error.message


def test_a_node_with_too_little_disk_is_not_planned_for() -> None:
    tight = gpu_nodes(H100, ephemeral_storage_bytes=10 * GIB)
    error = bad(plan_of(spec_of(method="lora"), Inventory(gpu_nodes=(tight,))))
    assert "local disk" in error.message


@pytest.mark.parametrize(
    ("strategy", "bytes_per_parameter"), [("ddp", 12), ("fsdp", 16), ("zero1", 18), ("zero2", 18), ("zero3", 16)]
)
def test_the_disk_holds_the_checkpoint_that_was_resumed_from_and_the_last_one(
    strategy: str, bytes_per_parameter: int
) -> None:
    """Bytes per parameter as measured of last checkpoints of full training, with tests/trainer's tiny model on two processes."""
    resources = {"gpus": 2, "strategy": strategy}
    plan = good(plan_of(spec_of("meta-llama/Llama-3.2-1B", method="full", resources=resources)))
    assert plan.resources.ephemeral_storage_bytes >= 2 * bytes_per_parameter * plan.total_parameters + DISK_BASE_BYTES


def test_a_cache_holds_the_model_instead_of_the_pods_disk() -> None:
    spec = spec_of("meta-llama/Llama-3.2-1B", method="lora")
    cached = spec.model_copy(
        update={"model": spec.model.model_copy(update={"cache": Cache(persistent_volume_claim="models")})}
    )
    without, with_cache = good(plan_of(spec)), good(plan_of(cached))
    saved = without.resources.ephemeral_storage_bytes - with_cache.resources.ephemeral_storage_bytes
    assert abs(saved - 2 * without.total_parameters) < 0.01 * saved + 2**20
    assert with_cache.resources.memory_bytes == without.resources.memory_bytes


def test_every_pod_has_disk_for_all_encoded_rows() -> None:
    rows, longest = 1_000_000, 2000
    two_pods = {
        "resources": {"gpus": 16, "gpuProduct": [H100], "pods": 2},
        "training": {"maxLength": longest, "packing": "none"},
    }
    report = inspected(rows=rows, longest=longest)
    tokens = report.dataset.tokens.model_copy(update={"total": rows * 1500})
    full = report.model_copy(update={"dataset": report.dataset.model_copy(update={"tokens": tokens})})
    empty = report.model_copy(
        update={
            "dataset": report.dataset.model_copy(update={"rows": 0, "tokens": tokens.model_copy(update={"total": 0})})
        }
    )
    spec = spec_of(method="lora", **two_pods)

    many, none = (good(plan_of(spec, inspection=each)).resources for each in (full, empty))
    encoded = many.ephemeral_storage_bytes - none.ephemeral_storage_bytes
    assert 8 * 1500 * rows <= encoded <= 8 * 1500 * rows + BYTES_PER_ROW * rows + MIB
    assert many.memory_bytes == none.memory_bytes


def test_encoded_rows_count_as_much_as_is_known_of_them() -> None:
    report = inspected(rows=1000, longest=500)
    tokens = report.dataset.tokens.model_copy(update={"total": 400_000})
    sides = {"chosen": tokens, "rejected": tokens}
    of_pairs = report.model_copy(
        update={"dataset": report.dataset.model_copy(update={"tokens": tokens, "sides": sides})}
    )
    pairs = encoded_bytes(spec_of(objective="dpo"), of_pairs, max_length=2048)
    assert pairs == 2 * 4 * 400_000 + (BYTES_PER_ROW + REFERENCE_BYTES) * 1000
    cut = encoded_bytes(spec_of(objective="orpo"), of_pairs, max_length=100)
    assert cut == 2 * 4 * 100 * 1000 + BYTES_PER_ROW * 1000
    assert encoded_bytes(spec_of(), None, max_length=2048) == 0
    own = spec_of().model_copy(update={"trainer": Trainer(image="registry/train:1", command=["train"])})
    assert encoded_bytes(own, report, max_length=2048) == 0


def test_pods_on_several_nodes_that_mount_one_claim_are_warned_of_its_access_mode() -> None:
    spec = spec_of(method="lora", resources={"gpus": 16})
    cached = spec.model_copy(
        update={"model": spec.model.model_copy(update={"cache": Cache(persistent_volume_claim="models")})}
    )
    assert any("claim models" in said and "ReadWriteMany" in said for said in good(plan_of(cached)).reasons)
    assert not any("ReadWriteMany" in said for said in good(plan_of(spec)).reasons)


def test_no_disk_is_planned_where_the_nodes_do_not_say_what_they_have() -> None:
    plan = good(plan_of(spec_of(), Inventory(gpu_nodes=(gpu_nodes(ephemeral_storage_bytes=0),))))
    assert plan.resources.ephemeral_storage_bytes == 0


def test_with_fsdp_a_pod_holds_the_model_once_while_it_is_loaded_and_with_copies_once_per_process() -> None:
    whole = 4 * 70_553_706_496
    job = {"training": {"globalBatchSize": 32}, "resources": {"gpuProduct": [H100], "gpus": 32}}
    sharded = good(plan_of(spec_of("meta-llama/Llama-3.1-70B", method="full", **job)))
    assert sharded.strategy is Strategy.FSDP
    checkpoint = 3 * whole // sharded.pods
    assert whole + checkpoint < sharded.resources.memory_bytes < 2 * whole + checkpoint
    copied = good(plan_of(spec_of(method="lora", resources={"gpuProduct": [H100], "gpus": 8, "strategy": "ddp"})))
    assert copied.resources.memory_bytes > 8 * 2 * 8_030_261_248


def test_nodes_of_one_kind_whose_memory_differs_take_the_pods_of_one_job() -> None:
    nodes = [gpu_nodes(nodes=1, host_memory_bytes=2048 * GIB - number * 2**20) for number in range(3)]
    plan = good(plan_of(spec_of(method="lora", resources={"gpus": 16}), Inventory(gpu_nodes=tuple(nodes))))
    assert plan.pods == 2


def test_nodes_that_are_too_small_do_not_count_towards_those_that_are_needed() -> None:
    spec = spec_of(method="lora", resources={"gpus": 16, "strategy": "ddp"})
    large, small = gpu_nodes(nodes=1), gpu_nodes(nodes=5, host_memory_bytes=64 * GIB)
    error = bad(plan_of(spec, Inventory(gpu_nodes=(large, small))))
    assert "on 2 nodes, and 1 have it" in error.message


def test_pods_that_share_a_gpu_node_share_its_memory() -> None:
    spec = spec_of(method="lora", resources={"gpus": 8, "pods": 8})
    one_pod = good(plan_of(spec)).resources.memory_bytes
    roomy, tight = (gpu_nodes(nodes=1, host_memory_bytes=count * one_pod) for count in (9, 4))
    good(plan_of(spec, Inventory(gpu_nodes=(roomy,))))
    assert "node memory" in bad(plan_of(spec, Inventory(gpu_nodes=(tight,)))).message


def test_checkpoints_wait_in_memory_and_the_plan_says_how_much_that_takes() -> None:
    job = {"resources": {"gpus": 8, "gpuProduct": [H100], "strategy": "fsdp"}}
    plan = good(plan_of(spec_of(method="full", **job)))
    checkpoint = 12 * plan.trainable_parameters
    assert checkpoint < plan.resources.staging_bytes <= checkpoint + 8 * UPLOAD_BYTES
    said = f"checkpoints: up to {plan.resources.staging_bytes / GIB:.1f} GiB of a pod's memory hold one while it is uploaded"
    assert said in plan.reasons


def test_checkpoints_wait_on_local_disk_where_the_nodes_have_too_little_memory_for_them() -> None:
    job = {"resources": {"gpus": 8, "gpuProduct": [H100], "strategy": "fsdp"}}
    roomy = good(plan_of(spec_of(method="full", **job)))
    without = roomy.resources.memory_bytes - roomy.resources.staging_bytes
    tight = gpu_nodes(H100, host_memory_bytes=round(1.25 * without))
    plan = good(plan_of(spec_of(method="full", **job), Inventory(gpu_nodes=(tight,))))
    assert plan.resources.staging_bytes == 0
    assert plan.resources.memory_bytes <= without + 2**20
    assert plan.resources.ephemeral_storage_bytes == roomy.resources.ephemeral_storage_bytes
    assert any(said.startswith("checkpoints: on local disk") for said in plan.reasons)
    assert plan.model_copy(update={"resources": roomy.resources, "reasons": roomy.reasons}) == roomy
