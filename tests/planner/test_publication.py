"""What can be published of which model, and what the publish pod asks for: one copy of the model in memory, and disk for what it reads and writes."""

from __future__ import annotations

import pytest

from finetune_operator.api.plan import Plan
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.planner.inventory import Inventory
from finetune_operator.planner.publication import BASE_BYTES, PublicationNeeds, publication_needs
from finetune_operator.planner.testing import bad, good, gpu_nodes, inspected, plan_of, spec_of

PARAMETERS = 8_000_000_000


def needs(method: str, *, cached: bool = False, precision: str = "bf16", **output: object) -> PublicationNeeds:
    spec = spec_of(method=method, training={"precision": precision})
    spec = FineTuneJobSpec.model_validate({**spec.to_json_dict(), "output": {"uri": "s3://models/tuned", **output}})
    model = inspected().model.model_copy(update={"parameters": PARAMETERS, "weight_bytes": 2 * PARAMETERS})
    return publication_needs(spec, model, plan(method), cached=cached)


def plan(method: str) -> Plan:
    return good(plan_of(spec_of(method=method), Inventory(gpu_nodes=(gpu_nodes(),))))


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_memory_holds_one_copy_of_the_model_and_not_two(method: str) -> None:
    copy = 2 * PARAMETERS
    assert copy < needs(method).memory_bytes - BASE_BYTES < 2 * copy


def test_a_model_in_float32_takes_twice_the_memory() -> None:
    more = needs("full", precision="fp32").memory_bytes - BASE_BYTES
    assert more == 2 * (needs("full").memory_bytes - BASE_BYTES)


def test_disk_holds_the_checkpoint_the_base_and_the_merged_model() -> None:
    adapter = 2 * 4 * plan("lora").trainable_parameters  # as it was read, and as it is published
    assert needs("lora").disk_bytes == BASE_BYTES + adapter + 2 * (2 * PARAMETERS)
    assert needs("lora", cached=True).disk_bytes == BASE_BYTES + adapter + 2 * PARAMETERS
    assert needs("lora", merge=False).disk_bytes == BASE_BYTES + adapter + 2 * PARAMETERS


def test_a_full_models_checkpoint_has_float32_weights_and_its_base_is_not_read() -> None:
    assert needs("full").disk_bytes == BASE_BYTES + 4 * PARAMETERS + 2 * PARAMETERS
    assert needs("full", cached=True) == needs("full")


def test_a_gguf_file_of_another_architecture_is_refused_with_its_reason() -> None:
    spec = spec_of("bigscience/bloom-7b1", method="lora")
    spec = FineTuneJobSpec.model_validate({**spec.to_json_dict(), "output": {"uri": "s3://m/t", "gguf": ["f16"]}})
    refused = bad(plan_of(spec))
    assert refused.reason == Reason.UNSUPPORTED_COMBINATION
    assert "output.gguf cannot be made of hf://bigscience/bloom-7b1" in refused.message
    assert "this is bloom" in refused.message


def test_gguf_files_are_counted_on_disk() -> None:
    both = needs("full", gguf=["f16", "q8_0"]).disk_bytes - needs("full").disk_bytes
    assert both == 2 * PARAMETERS + PARAMETERS * 34 // 32
