"""litgpt's rows: what a layer keeps, as traced with its own modules (litgpt 0.4.2, torch 2.13 on the CPU, saved_tensors_hooks)."""

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of

from finetune_operator.memory.activations.model import passes
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.blocks import NormKind
from finetune_operator.memory.workload import Workload

HIDDEN = 512
LLAMA = {
    "model": "Llama 2",
    "hidden": str(HIDDEN),
    "layers": "4",
    "heads": "8",
    "kv_heads": "8",
    "head_dim": "64",
    "intermediate": "1376",
    "vocab": "512",
    "tied": "0",
    "n_gpus": "1",
    "weight_dtype": "bfloat16",
    "trainable_dtype": "bfloat16",
    "compute_precision": "bf16-true",
    "optimizer": "AdamW",
    "micro_batch": "1",
    "seq_len": "256",
    "grad_ckpt": "0",
    "sharding": "none",
    "framework": "litgpt",
    "trainable_params": "5000",
    "use": "memory",
}
STABLELM = {**LLAMA, "model": "StableLM Alpha", "intermediate": "2048"}
NF4 = {"quant": "bnb.nf4", "weight_dtype": "nf4"}


def read(columns: dict[str, str], **changes: str) -> tuple[Architecture, Workload]:
    row = Row({**columns, **changes})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return architecture, workload


def kept(columns: dict[str, str], **changes: str) -> float:
    """Bytes per token and hidden element of one layer, without its statistics (bytes per head and token)."""
    return passes(*read(columns, **changes)).segments[-1].kept.token / HIDDEN


@pytest.mark.parametrize(
    ("columns", "method", "traced"),
    [
        (LLAMA, "adapter", 38.46),
        (LLAMA, "adapter_v2", 63.45),
        (STABLELM, "adapter", 24.34),
        (STABLELM, "adapter_v2", 42.57),
    ],
)
def test_adapters_keep_what_litgpt_s_own_layers_keep(columns: dict[str, str], method: str, traced: float) -> None:
    # The trace has the prefix of ten tokens, which the closed form leaves out.
    assert kept(columns, method=method) == pytest.approx(traced, abs=0.5)


@pytest.mark.parametrize(("columns", "inputs"), [(LLAMA, 2 + 2 + 2 + 2 * 1376 / 512), (STABLELM, 2 + 2 + 2 + 8)])
def test_four_bit_linears_keep_each_of_their_inputs_once(columns: dict[str, str], inputs: float) -> None:
    found = kept(columns, method="adapter", **NF4) - kept(columns, method="adapter")
    assert found == pytest.approx(inputs, abs=0.01)


def test_prefixes_start_at_the_third_layer() -> None:
    assert sum(segment.copies for segment in passes(*read(LLAMA, method="adapter")).segments) == 2
    assert sum(segment.copies for segment in passes(*read(LLAMA, method="adapter_v2")).segments) == 4


def test_only_rows_whose_full_length_comes_again_hold_two_graphs() -> None:
    reached = read(LLAMA, method="lora", seq_kind="max 512 (truncated), padded to longest in batch")[1]
    once = read(LLAMA, method="lora", seq_kind="max (longest sample first)")[1]
    assert reached.software.keeps_graph
    assert not once.software.keeps_graph


def test_the_forerunner_multiplies_the_weight_of_its_norms_in_float32() -> None:
    assert read(LLAMA, method="lora")[0].main_block.norm is NormKind.RMS
    assert read(LLAMA, method="lora", framework="lit-gpt 8641822")[0].main_block.norm is NormKind.RMS_FLOAT32
