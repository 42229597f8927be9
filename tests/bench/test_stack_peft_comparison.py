"""PEFT's method comparison: what its harness and each method's layers do."""

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.software import Software
from finetune_operator.memory.workload import Workload

LLAMA = {
    "model": "meta-llama/Llama-3.2-3B",
    "hidden": "3072",
    "layers": "28",
    "heads": "24",
    "kv_heads": "8",
    "intermediate": "8192",
    "vocab": "128256",
    "tied": "1",
    "rank": "32",
    "target_modules": "q_proj,v_proj",
    "micro_batch": "4",
    "seq_len": "768",
    "framework": "peft+transformers loop",
}


def read(method: str, name: str = "") -> Software:
    row = Row({**LLAMA, "method": method, "id": name or method})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return workload.software


@pytest.mark.parametrize(
    ("method", "name", "whole", "frozen"),
    [
        ("lora", "lora--rank32", False, False),
        ("lora", "lora--rank32-lorafa", False, True),
        ("vera", "vera--default", False, True),
        ("loha", "loha--default", True, False),
        ("miss", "miss--bat", True, False),
        ("miss", "miss--mini", False, True),
    ],
)
def test_methods_keep_whole_updates_or_no_input_as_their_layers_do(
    method: str, name: str, whole: bool, frozen: bool
) -> None:
    software = read(method, name)
    assert (software.whole_updates, software.frozen_inputs) == (whole, frozen)
    assert software.empties_cache
    assert software.holds_logits
