"""ms-swift 1.x's rows: what its code and the models' own code do."""

import pytest
from accuracy.models import architecture_of_row
from accuracy.rows import Row
from accuracy.stacks import stack_of
from accuracy.stages import last_stage, mapped_layers, stages_of

from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import AttentionKernel
from finetune_operator.memory.workload import Workload

QWEN = {
    "id": "swift/lora",
    "model": "qwen-7b-chat",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "32",
    "intermediate": "11008",
    "vocab": "151936",
    "method": "lora",
    "rank": "8",
    "n_gpus": "2",
    "micro_batch": "1",
    "seq_len": "2048",
    "attention": "flash_attention_2",
    "sharding": "device_map",
    "framework": "ms-swift sft",
}
BAICHUAN = {"model": "baichuan2-7b-chat", "vocab": "125696"}


def read(**changes: str) -> Workload:
    row = Row({**QWEN, **changes})
    architecture = architecture_of_row(row)
    assert isinstance(architecture, Architecture)
    workload = stack_of(row).workload(row, architecture)
    assert isinstance(workload, Workload)
    return workload


def test_qwens_own_code_hands_compute_type_logits_to_the_loss_and_attends_without_flash_by_written_out_scores() -> None:
    assert read().software.narrow_loss
    assert read().attention is AttentionKernel.FLASH
    assert read(attention="sdpa").attention is AttentionKernel.EAGER


@pytest.mark.parametrize(("length", "varied"), [("2048", False), ("8192", True)])
def test_the_normalised_heads_block_holds_the_logits_of_as_many_tokens_as_the_model_is_wide(
    length: str, varied: bool
) -> None:
    workload = read(**BAICHUAN, seq_len=length)
    assert workload.software.normalises_head
    assert workload.varied_lengths is varied
    assert not read(vocab="64000", model="baichuan-7b").software.normalises_head


def test_a_run_that_is_called_ddp_has_the_whole_model_on_every_gpu() -> None:
    row = Row({**QWEN, "id": "swift/lora+ddp"})
    assert (stages_of(Row(QWEN)), stages_of(row)) == (2, 1)
    assert read(id="swift/lora+ddp").strategy is Strategy.DDP


def test_device_map_gives_the_last_gpu_the_layers_that_the_first_has_no_room_for() -> None:
    qwen_14b = {**QWEN, "model": "qwen-14b-chat", "hidden": "5120", "layers": "40", "heads": "40", "kv_heads": "40"}
    architecture = architecture_of_row(Row({**qwen_14b, "intermediate": "13696", "vocab": "152064"}))
    assert isinstance(architecture, Architecture)
    # 7.09 billion parameters and 1.25 layers of 0.315, less the embedding of 0.78 and room for as much: 18 layers.
    assert mapped_layers(architecture, 2) == 22
    assert last_stage(architecture, 2, mapped=True).layers == 22
    assert last_stage(architecture, 2).layers == 20
