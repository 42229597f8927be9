"""torchtune 0.4 to 0.5 (pytorch/torchtune): full_finetune_single_device and lora_finetune_single_device.

Facts, with where they were read:

- The model's output is cast to float32 (modules/transformer.py); with CEWithChunkedOutputLoss it is made in 8 chunks of tokens.
- torch.optim.AdamW with fused=True in the recipes' configs of 2024-12 (recipes/configs/llama3_2/3B_full_single_device.yaml).
- "AdamW in backward" steps and frees every gradient as soon as it exists (training/memory.py).
- alpaca_cleaned without packing: the longest sample, not model_max_length, bounds a batch (see longest_of).
"""

from __future__ import annotations

from typing import Final

from accuracy.stacks.datasets import bounded
from accuracy.stacks.stack import Stack

STACK: Final = Stack(name="torchtune", pattern=r"torchtune", workload=bounded)
