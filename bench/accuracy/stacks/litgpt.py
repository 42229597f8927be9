"""litgpt (Lightning-AI/litgpt) and its forerunner lit-gpt at 8641822 (2023-11).

Facts, with where they were read:

- The output head is never tied to the embedding (litgpt/scripts/convert_hf_checkpoint.py copies the weight), and is quantised as well.
- finetune/lora.py calls the model with lm_head_chunk_size=128 and holds the list of logits, in the model's own type, during backward;
  utils.py chunked_cross_entropy makes no float32 copy. finetune/full.py makes whole logits.
- lora.py: dropout 0.05 before the adapters by default; torch.optim.AdamW (foreach), with bitsandbytes its PagedAdamW.
- model.py: keys and values are expanded to every query head before SDPA, which gets no mask in training; softcapped attention (Gemma 2)
  is written out.
- bitsandbytes 0.41 and 0.42 (pyproject.toml) keep the inputs of frozen 4-bit linears.
- Several GPUs: FSDP 1 with one unit per block that mixes frozen and trained weights, activation checkpointing, and no_sync while gradients
  accumulate (finetune/lora.py): gradients of everything, unsharded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import Stack, read
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import AttentionKernel, LossKind, Optimizer, Quantization, Tuning, Workload

DROPOUT: Final = 0.05


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = read(row, architecture)
    if isinstance(workload, str):
        return workload
    software = replace(
        workload.software,
        repeats_keys=True,
        quantized_inputs_kept=workload.quantization is not Quantization.NONE,
        keeps_compute_logits=True,
        frozen_gradients=workload.flat_parameters and not workload.trains_base,
    )
    return replace(
        workload,
        loss=LossKind.FULL_LOGITS,
        dropout=DROPOUT if workload.tuning is Tuning.LORA else 0.0,
        optimizer=Optimizer.ADAMW_FOREACH if workload.optimizer is Optimizer.ADAMW else workload.optimizer,
        attention=AttentionKernel.EAGER if architecture.model_type == "gemma2" else workload.attention,
        packing=True,  # no padding mask: litgpt's attention is causal only
        software=software,
    )


STACK: Final = Stack(name="litgpt", pattern=r"lit-?gpt", workload=_workload, ties_embeddings=False)
