"""The transformers Trainer of version 4 and what is built on it: TRL's SFTTrainer, fms-hf-tuning, ms-swift, Qwen's finetune.py.

Facts, with where they were read:

- `adamw_torch` is torch.optim.AdamW, which on a GPU takes the foreach implementation (torch/optim/adamw.py, `_default_to_fused_or_foreach`):
  temporaries as large as the trained parameters at the step. Fused AdamW became the default with transformers 4.56 on torch 2.8.
- accelerate >= 0.34, accelerator.py `prepare_model`: with FSDP 1 and mixed precision, trained parameters become float32.
- transformers < 5 checkpoints reentrantly unless told otherwise (modeling_utils.py, gradient_checkpointing_enable).
- transformers < 4.48, modeling_mistral.py: the flash-attention class repeats keys and values; modeling_llama.py's does not. SDPA classes
  always repeat.
- The loss of transformers < 4.49 casts logits to float32 and copies them without the last token; from 4.46 a function beside the model does
  (loss/loss_utils.py, ForCausalLMLoss), while the model still holds those in the compute type.
- GPT-BigCode has a loss of its own until 4.48, on logits as they are, and switches use_cache not off under checkpointing (read in 4.48 to 4.50,
  modeling_gpt_bigcode.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.columns import is_older
from accuracy.stacks.stack import Stack, read
from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import FLOAT32_MASTER, AttentionKernel, Optimizer
from finetune_operator.memory.workload import Workload

REPEATING_FLASH: Final = frozenset({"mistral", "mixtral"})


def trainer_workload(row: Row, architecture: Architecture) -> Workload | str:
    """Return what the Trainer makes of a row."""
    workload = read(row, architecture)
    if isinstance(workload, str):
        return workload
    if workload.optimizer is Optimizer.ADAMW and "fused" not in row.text("optimizer").lower():
        workload = replace(workload, optimizer=Optimizer.ADAMW_FOREACH)
    if workload.flat_parameters and workload.trains_base and is_mixed_precision(row):
        workload = replace(workload, numerics=FLOAT32_MASTER)
    shifts = is_older(row, "transformers", (4, 49))
    own_loss = architecture.model_type == "gpt_bigcode" and shifts
    software = replace(
        workload.software,
        repeats_keys=repeats_keys(row, architecture, workload),
        shifts_logits=shifts,
        keeps_narrow_logits=shifts and not own_loss and not is_older(row, "transformers", (4, 46)),
        unwidened_logits=own_loss,
        reentrant_checkpoints=is_older(row, "transformers", (5, 0)),
        returns_cache=architecture.model_type == "gpt_bigcode" and is_older(row, "transformers", (4, 51)),
    )
    return replace(workload, software=software)


def is_mixed_precision(row: Row) -> bool:
    """Return whether the Trainer was told to compute in a narrower type than float32 (`--bf16`, `--fp16`)."""
    words = row.text("compute_precision").lower()
    return words in ("bf16", "fp16") or ("autocast" in words and "no autocast" not in words)


def repeats_keys(row: Row, architecture: Architecture, workload: Workload) -> bool:
    """Return whether keys and values are repeated for every query head before attention."""
    if workload.attention is not AttentionKernel.FLASH:
        return True
    return architecture.model_type in REPEATING_FLASH and not _is_new(row)


def _is_new(row: Row) -> bool:
    return not is_older(row, "transformers", (4, 48))


def is_one_gpu(workload: Workload) -> bool:
    """Return whether one process holds everything."""
    return workload.strategy is Strategy.SINGLE


STACK: Final = Stack(
    name="transformers-trainer", pattern=r"hf trainer|trl|transformers\+|axolotl", workload=trainer_workload
)
