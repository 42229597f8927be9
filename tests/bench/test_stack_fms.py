"""fms-acceleration's runs: what its scenarios and the versions below them do."""

from __future__ import annotations

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import Workload

SANTACODER = {
    "model": "bigcode/gpt_bigcode-santacoder",
    "hidden": "2048",
    "layers": "24",
    "heads": "16",
    "kv_heads": "1",
    "intermediate": "8192",
    "vocab": "49280",
    "tied": "1",
}
MISTRAL = {
    "model": "mistralai/Mistral-7B-v0.1",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "8",
    "intermediate": "14336",
    "vocab": "32000",
}
RUN = {
    "micro_batch": "4",
    "seq_len": "2048",
    "grad_ckpt": "1",
    "attention": "flash_attention_2",
    "compute_precision": "pure bfloat16",
    "n_gpus": "1",
}


def read(model: dict[str, str], transformers: str, method: str = "lora", framework: str = "none") -> Workload:
    columns = {"method": method, "versions": f"transformers=={transformers}"}
    row = Row({**model, **RUN, **columns, "framework": f"fms-hf-tuning sft_trainer ({framework})"})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return workload


@pytest.mark.parametrize(
    ("transformers", "shifts", "beside"), [("4.45.2", True, False), ("4.48.1", True, True), ("4.49.0", False, False)]
)
def test_a_function_beside_the_model_computes_the_loss_from_4_46_and_shifts_labels_from_4_49(
    transformers: str, shifts: bool, beside: bool
) -> None:
    software = read(MISTRAL, transformers).software
    assert (software.shifts_logits, software.keeps_narrow_logits) == (shifts, beside)
    assert not software.unwidened_logits
    assert not software.returns_cache


def test_gpt_bigcode_computes_its_loss_itself_and_returns_keys_and_values() -> None:
    software = read(SANTACODER, "4.48.1").software
    assert software.unwidened_logits
    assert software.returns_cache
    assert not software.keeps_narrow_logits
    assert not read(SANTACODER, "4.49.0").software.unwidened_logits


def test_the_scenarios_of_bitsandbytes_run_under_autocast_and_those_of_lora_do_not() -> None:
    assert read(MISTRAL, "4.48.1", "qlora", "accelerated-peft-bnb").numerics.autocast
    assert not read(MISTRAL, "4.48.1", "lora").numerics.autocast


@pytest.mark.parametrize(("transformers", "reentrant"), [("4.38.0", True), ("5.2.0", False)])
def test_the_trainer_checkpoints_reentrantly_until_transformers_5(transformers: str, reentrant: bool) -> None:
    row = Row(
        {**MISTRAL, **RUN, "method": "lora", "versions": f"transformers=={transformers}", "framework": "hf trainer"}
    )
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    assert workload.software.reentrant_checkpoints is reentrant
