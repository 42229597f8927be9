"""torchtune 0.4 to 0.5 (pytorch/torchtune): full_finetune_single_device and lora_finetune_single_device.

Facts, with where they were read:

- The model's output is cast to float32 (modules/transformer.py); with CEWithChunkedOutputLoss it is made in 8 chunks of tokens, each widened
  by itself (modules/loss/ce_chunked_output_loss.py); `compile` compiles layers and loss (training/_compile.py).
- torch.optim.AdamW with fused=True in the recipes' configs of 2024-12 (recipes/configs/llama3_2/3B_full_single_device.yaml).
- "AdamW in backward" steps and frees every gradient as soon as it exists (training/memory.py).
- Activation offloading moves what checkpointing keeps to the host (training/_activation_offloading.py).
- modules/attention.py expands keys and values to every query head before attention; compiled layers do it again in the backward pass.
- alpaca_cleaned without packing: the longest sample, not model_max_length, bounds a batch (see longest_of).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.datasets import bounded
from accuracy.stacks.stack import Stack
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import LossKind
from finetune_operator.memory.workload import Workload


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = bounded(row, architecture)
    if isinstance(workload, str):
        return workload
    compiled = row.text("compile") == "1"
    loss = LossKind.OUTPUT_CHUNKS if workload.loss is LossKind.CHUNKED else workload.loss
    software = replace(
        workload.software,
        repeats_keys=not compiled,
        compiled_loss=compiled and loss is LossKind.OUTPUT_CHUNKS,  # whole logits are widened outside of it
        steps_in_backward=workload.trains_base and "backward" in row.text("optimizer").lower(),
        offloads_activations="activation" in row.text("cpu_offload").lower(),
    )
    return replace(workload, loss=loss, software=software)


STACK: Final = Stack(name="torchtune", pattern=r"torchtune", workload=_workload)
