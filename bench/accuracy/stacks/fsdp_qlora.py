"""AnswerDotAI/fsdp_qlora, train.py of 2024-03: transformers 4.38's Llama under FSDP 1 with its own wrapping.

Facts, with where they were read:

- Adapters have FSDP units of their own beside frozen ones (train.py, get_wrapping_policy): no gradients for frozen weights.
- Everything is bfloat16 (`--precision bf16_buffers_autocast` and pure bf16), torch.optim.AdamW: foreach; the model's own loss with float32 logits.
- SDPA; transformers < 4.48 repeats keys and values. bitsandbytes 0.43 keeps the inputs of frozen 4-bit linears.
- Adapters have dropout 0.1 (train.py, lora_dropout); the model's output, logits included, is alive until the step is over (`output = None`).
- Checkpoints are reentrant (the published table says so).
- The dummy data set fills every row to the context length.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import Stack, read
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Optimizer, Quantization
from finetune_operator.memory.workload import Workload

DROPOUT: Final = 0.1


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = read(row, architecture)
    if isinstance(workload, str):
        return workload
    software = replace(
        workload.software,
        repeats_keys=True,
        reentrant_checkpoints=True,
        shifts_logits=True,
        holds_logits=True,
        quantized_inputs_kept=workload.quantization is not Quantization.NONE,
    )
    optimizer = Optimizer.ADAMW_FOREACH if workload.optimizer is Optimizer.ADAMW else workload.optimizer
    return replace(workload, optimizer=optimizer, software=software, dropout=DROPOUT)


STACK: Final = Stack(name="fsdp_qlora", pattern=r"fsdp_qlora", workload=_workload)
