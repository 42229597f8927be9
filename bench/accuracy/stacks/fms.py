"""fms-hf-tuning's sft_trainer.py with the plugins of foundation-model-stack/fms-acceleration (0.x, 2024-2025).

Facts, with where they were read:

- transformers < 5 checkpoints reentrantly unless told otherwise (modeling_utils.py, gradient_checkpointing_enable); defaults.yaml does not.
- The benchmark's LoRA has no dropout (scripts/benchmarks/scenarios.yaml); adapters are float32 (from the published static bytes).
- bitsandbytes is asked for double quantisation (plugins/accelerated-peft, framework_plugin_bnb.py).
- The scenarios of bitsandbytes set `bf16` where those of full fine-tuning and LoRA do not (scripts/benchmarks/scenarios.yaml at 12dadf9): autocast,
  whatever the table's columns say. TRL gives back float32 to the norms alone with that flag, and the static bytes show that it did.
- "foak" is the fused-ops-and-kernels plugin: RMS norm, rotary embedding and cross-entropy in Triton; on quantised models the adapters'
  products as well. Its cross-entropy keeps whole logits; with "liger" the head is fused into the loss.
- The "baseline" of bitsandbytes goes through TRL's SFTTrainer, which on one GPU calls PEFT's prepare_model_for_kbit_training and then puts
  norms in float32 (trl/trainer/utils.py, peft_module_casting_to_bf16); sharded models are left alone (sft_trainer.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accuracy.rows import Row
from accuracy.stacks.stack import Stack
from accuracy.stacks.transformers_trainer import is_one_gpu, trainer_workload
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Quantization
from finetune_operator.memory.workload import Workload


def _workload(row: Row, architecture: Architecture) -> Workload | str:
    workload = trainer_workload(row, architecture)
    if isinstance(workload, str):
        return workload
    framework = row.text("framework").lower()
    if workload.quantization is Quantization.NF4:
        numerics = replace(workload.numerics, autocast=True)
        workload = replace(workload, quantization=Quantization.NF4_DOUBLE, numerics=numerics)
    software = replace(
        workload.software,
        reentrant_checkpoints=True,
        fused_norms="foak" in framework or "liger" in framework,
        float32_norms="baseline" in framework and "bnb" in framework and is_one_gpu(workload),
    )
    return replace(workload, software=software)


STACK: Final = Stack(name="fms-hf-tuning", pattern=r"fms-hf-tuning|fms-acceleration", workload=_workload)
