"""PEFT's method comparison: what its harness and each method's layers do."""

from dataclasses import replace

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.software import Software
from finetune_operator.memory.states import states_of
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
    return workload_of(method, id=name or method).software


def workload_of(method: str, **columns: str) -> Workload:
    row = Row({**LLAMA, **columns, "method": method})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return workload


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


def test_osf_keeps_every_weight_decomposed_beside_itself_until_peft_0_21() -> None:
    rank = 128
    columns = {"target_modules": "q_proj k_proj", "trainable_params": ""}
    old = workload_of("osf", rank=str(rank), versions="peft 0.18.1.dev0", **columns)
    new = workload_of("osf", rank=str(rank), versions="peft 0.21.0", **columns)
    vectors = (3072 - rank) * (3072 + 3072 + 1) + (1024 - rank) * (3072 + 1024 + 1)
    assert old.frozen_beside == 28 * vectors
    assert old.numerics.trained == old.numerics.base
    assert old.software.whole_updates
    assert new.frozen_beside == 0
    assert not new.software.whole_updates
    row = Row({**LLAMA, "method": "osf", "versions": "peft 0.18.1.dev0"})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    beside, without = (
        states_of(architecture, replace(old, frozen_beside=elements)).resident_weights
        for elements in (old.frozen_beside, 0)
    )
    assert beside - without == 2 * old.frozen_beside
