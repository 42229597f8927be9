"""Programs of 2023 and early 2024 on the transformers Trainer whose models brought their own code: ms-swift 1.x and Qwen's finetune.py.

Facts, with where they were read:

- Qwen's finetune.py and modeling_qwen.py: logits in the compute type, a copy without the last token, cross-entropy in float32 by autocast;
  accelerate's autocast wrapper returns the logits in float32. DeepSpeed ZeRO-2 for LoRA on several GPUs, ZeRO-3 for full (finetune/*.sh).
- ms-swift's compute_loss reads outputs.logits for the accuracy (swift/trainers): they stay alive. LoRA in float32 under bf16 autocast.
- PEFT's prepare_model_for_kbit_training makes what is not quantised float32 (bitsandbytes bases); GPTQ bases stay float16.
- ms-swift packs with binpacking.to_constant_volume (swift/llm/utils): packed rows differ in length as well.
- bitsandbytes 0.41 keeps the inputs of frozen 4-bit linears.
- ChatGLM's modeling_chatglm.py gives SDPA a mask, which torch 2.1 answers with its written-out kernel; it has no flash attention.
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
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.workload import FLOAT32_MASTER, AttentionKernel, Optimizer, Quantization, Tuning, Workload

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
    quantised_by_bitsandbytes = workload.quantization in BITSANDBYTES and "gptq" not in row.text("quant").lower()
    software = replace(
        workload.software, holds_logits=True, shifts_logits=True, quantized_inputs_kept=quantised_by_bitsandbytes
    )
    varied = workload.varied_lengths or "swift" in row.text("framework").lower()
    return replace(workload, software=software, upcasts_rest=quantised_by_bitsandbytes, varied_lengths=varied)


STACK: Final = Stack(name="legacy-trainer", pattern=r"swift|qwen finetune", workload=_workload)
