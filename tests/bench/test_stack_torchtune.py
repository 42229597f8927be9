"""torchtune's rows: what its columns say about loss, optimizer and what is offloaded."""

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of
from accuracy.stacks.datasets import longest_of

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import LossKind
from finetune_operator.memory.workload import Workload

LLAMA = {
    "model": "llama-3.2-1b",
    "hidden": "2048",
    "layers": "16",
    "heads": "32",
    "kv_heads": "8",
    "intermediate": "8192",
    "vocab": "128256",
    "tied": "1",
    "method": "full",
    "micro_batch": "2",
    "seq_len": "4096",
    "compile": "1",
    "fused_loss": "chunked CE",
    "optimizer": "AdamW",
    "framework": "torchtune",
}


def read(**changes: str) -> Workload:
    row = Row({**LLAMA, **changes})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return workload


def test_columns_tell_the_loss_the_step_and_what_is_offloaded() -> None:
    plain = read()
    assert plain.loss is LossKind.OUTPUT_CHUNKS
    assert plain.software.compiled_loss
    assert not plain.software.steps_in_backward
    assert not plain.software.offloads_activations
    assert read(optimizer="AdamW in backward").software.steps_in_backward
    assert read(cpu_offload="activations").software.offloads_activations
    assert read(fused_loss="0").loss is LossKind.FULL_LOGITS
    assert read(compile="0").software.repeats_keys


@pytest.mark.parametrize(
    ("vocabulary", "packing", "tokens"), [("32000", "0", 1304), ("128256", "0", 1044), ("32000", "1", None)]
)
def test_the_longest_sample_depends_on_the_tokenizer_and_bounds_unpacked_rows(
    vocabulary: str, packing: str, tokens: int | None
) -> None:
    row = Row({**LLAMA, "vocab": vocabulary, "packing": packing, "seq_kind": "unpacked alpaca, padded to longest"})
    assert longest_of(row) == tokens
    assert read(vocab=vocabulary, packing=packing, seq_kind="unpacked alpaca, padded").sequence_length == (
        tokens or 4096
    )
