"""Programs of 2023 and early 2024 on the transformers Trainer whose models brought their own code: ms-swift 1.x and Qwen's finetune.py.

Facts, with where they were read:

- Qwen's finetune.py and modeling_qwen.py: logits in the compute type, a copy without the last token, cross-entropy in float32 by autocast;
  accelerate's autocast wrapper returns the logits in float32. DeepSpeed ZeRO-2 for LoRA on several GPUs, ZeRO-3 for full (finetune/*.sh).
- ms-swift's compute_loss reads outputs.logits for the accuracy (swift/trainers): they stay alive. LoRA in float32 under bf16 autocast.
- PEFT's prepare_model_for_kbit_training makes what is not quantised float32 (bitsandbytes bases); GPTQ bases stay float16.
- ms-swift packs with binpacking.to_constant_volume (swift/llm/utils): packed rows differ in length as well.
- bitsandbytes 0.41 keeps the inputs of frozen 4-bit linears.
- ChatGLM's modeling_chatglm.py gives SDPA a mask, which torch 2.1 answers with its written-out kernel; it has no flash attention.
  Qwen 1 without flash attention does the same.
- Baichuan 2's NormHead makes a float32 copy of the head in every step, whose block holds the float32 logits of as many tokens as the model is
  wide (simulated: 0.6 instead of 3 times the logits stay idle), so that lengths matter only above that.
- Samples longer than max_length are left out (truncation_strategy `delete`); batches come in random order.
- GaLore (arXiv 2403.03507) keeps moments of rank r instead of the matrix: nearly none beside weights and gradients. LISA (arXiv 2403.17919)
  trains a few layers at a time, with gradients and moments of those.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import Stack
from accuracy.stacks.transformers_trainer import trainer_workload
from accuracy.stages import is_replicated
from finetune_operator.api.compatibility import Strategy
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import FLOAT32_MASTER, AttentionKernel, Optimizer, Quantization, Tuning
from finetune_operator.memory.workload import Workload

NARROW_LOSS: Final = frozenset({"qwen", "baichuan"})
"""Remote code that hands the compute type's logits to CrossEntropyLoss; Llama, Mistral and ChatGLM widen them first."""
BAICHUAN_1_WORDS: Final = 64000
"""Vocabulary of Baichuan 1, whose head is a plain linear layer."""
BITSANDBYTES: Final = frozenset({Quantization.NF4, Quantization.NF4_DOUBLE, Quantization.INT8})


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = trainer_workload(row, architecture)
    if isinstance(workload, str):
        return workload
    if workload.tuning in (Tuning.LORA, Tuning.DORA, Tuning.OTHER):
        workload = replace(workload, numerics=FLOAT32_MASTER)
    if "galore" in row.method:
        workload = replace(workload, optimizer=Optimizer.SGD)
    if "lisa" in row.method:
        active = re.search(r"activated_layers=(\d+)", row.text("target_modules"))
        workload = replace(workload, tuning=Tuning.FREEZE, trained_layers=int(active.group(1)) if active else 2)
    if architecture.model_type == "chatglm":
        workload = replace(workload, attention=AttentionKernel.EAGER)
    if architecture.model_type == "qwen" and workload.attention is not AttentionKernel.FLASH:
        workload = replace(workload, attention=AttentionKernel.EAGER)
    if is_replicated(row):
        workload = replace(workload, strategy=Strategy.DDP, processes=row.whole("n_gpus") or 1)
    quantised_by_bitsandbytes = workload.quantization in BITSANDBYTES and "gptq" not in row.text("quant").lower()
    software = replace(
        workload.software,
        holds_logits=True,
        shifts_logits=True,
        narrow_loss=architecture.model_type in NARROW_LOSS,
        quantized_inputs_kept=quantised_by_bitsandbytes,
    )
    normalises = architecture.model_type == "baichuan" and architecture.vocabulary > BAICHUAN_1_WORDS
    software = replace(software, normalises_head=normalises)
    varied = workload.varied_lengths or "swift" in row.text("framework").lower()
    if normalises and workload.tokens <= architecture.hidden:
        varied = False
    return replace(workload, software=software, upcasts_rest=quantised_by_bitsandbytes, varied_lengths=varied)


STACK: Final = Stack(name="legacy-trainer", pattern=r"swift|qwen finetune", workload=_workload)
