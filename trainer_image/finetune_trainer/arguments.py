"""From the plan to the settings of TRL, DeepSpeed and PEFT: pure, every choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from finetune_operator.api.compatibility import ZERO_STAGES, Checkpointing, Offload, Strategy
from finetune_operator.api.methods import IA3_TARGETS, Method, Optimizer
from finetune_operator.api.plan import AttemptFile, Plan
from finetune_operator.api.swapping import BUFFERS, ELEMENTS_TOGETHER
from finetune_operator.api.tuning import Lora, LoraVariant
from finetune_trainer.attempt import SWAP_FOLDER
from finetune_trainer.network import COLLECTIVE_SECONDS

OPTIMIZERS: Final[Mapping[Optimizer, str]] = MappingProxyType(
    {
        Optimizer.ADAMW: "adamw_torch_fused",
        Optimizer.ADAMW_8BIT: "adamw_bnb_8bit",
        Optimizer.PAGED_ADAMW: "paged_adamw_32bit",
        Optimizer.PAGED_ADAMW_8BIT: "paged_adamw_8bit",
        Optimizer.ADAFACTOR: "adafactor",
        Optimizer.SGD: "sgd",
        Optimizer.MUON: "adamw_torch_fused",  # muon.py takes its place
    }
)
"""transformers' names (5.23, OptimizerNames)."""


def needs_cpu_backend(plan: Plan) -> bool:
    """Whether accelerate must be made to shard on CPUs."""
    return plan.accelerator == "cpu" and plan.strategy in (Strategy.FSDP, *ZERO_STAGES)


def training_arguments(attempt: AttemptFile, staging: Path, *, loads_once: bool = False) -> dict[str, Any]:
    """Return what every trainer is told (TrainingArguments); `loads_once` where only rank 0 has the weights and FSDP2 is to send them."""
    spec, plan = attempt.spec, attempt.plan
    swap = staging.with_name(SWAP_FOLDER)
    training = spec.training
    arguments: dict[str, Any] = {
        "output_dir": str(staging),
        "max_steps": plan.total_steps,
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation,
        "activation_checkpointing": plan.gradient_checkpointing is Checkpointing.FULL,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": training.warmup,  # transformers 5: below 1 a fraction of all steps, like ours
        "weight_decay": training.weight_decay,
        "neftune_noise_alpha": training.neftune_alpha,
        "max_grad_norm": training.max_gradient_norm,
        "optim": OPTIMIZERS[training.optimizer],
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "bf16": training.precision == "bf16",
        "seed": training.seed,
        "data_seed": training.seed,
        "average_tokens_across_devices": True,
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen, not replaced
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",  # step_boundary.py decides, for all ranks at once
        "save_only_model": False,
        "push_to_hub": False,
        # A sharded run on CPUs must not say that it is one: cpu_backend.py tells why.
        "use_cpu": plan.accelerator == "cpu" and not needs_cpu_backend(plan),
        "dataloader_pin_memory": plan.accelerator == "gpu",
        "ddp_find_unused_parameters": False,
        "ddp_timeout": COLLECTIVE_SECONDS,
    }
    if plan.strategy is Strategy.FSDP:
        arguments |= {"fsdp": True, "fsdp_config": _fsdp_settings(loads_once, plan.offload)}
        # Otherwise every rank holds the whole model's gradients between the micro-batches of a step: 2 bytes per parameter that sharding had saved.
        arguments["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    if plan.strategy in ZERO_STAGES:
        arguments["deepspeed"] = _deepspeed_settings(attempt, swap)
    return arguments


def _fsdp_settings(loads_once: bool, offload: Offload) -> dict[str, Any]:
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        # Each rank saves its own shards; the whole model is exported explicitly at the end (export.py).
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": loads_once,
        "cpu_offload": offload is not Offload.NONE,
    }


def _zero_settings(stage: int) -> dict[str, Any]:
    if stage < 3:
        return {"stage": stage}
    return {
        "stage": stage,
        # By the hidden size (transformers' HfTrainerDeepSpeedConfig), or norms and adapters of up to 100,000 elements and whole small models would
        # stay gathered.
        "stage3_param_persistence_threshold": "auto",
        # The model is exported explicitly at the end (export.py): checkpoints have each rank's shards.
        "stage3_gather_16bit_weights_on_model_save": False,
    }


def _zero_offload(plan: Plan, swap: Path) -> dict[str, Any]:
    if plan.offload is Offload.NONE:
        return {}
    host = {"device": "cpu", "pin_memory": plan.accelerator == "gpu"}
    if plan.offload is Offload.NVME:
        nvme = {"device": "nvme", "nvme_path": str(swap), "buffer_count": BUFFERS}
        return {"offload_optimizer": {**host, **nvme}, "sub_group_size": ELEMENTS_TOGETHER}
    parameters = {"offload_param": host} if plan.offload is Offload.PARAMETERS else {}
    return {"offload_optimizer": host, **parameters}


def _deepspeed_settings(attempt: AttemptFile, swap: Path) -> dict[str, Any]:
    return {
        "zero_optimization": {
            **_zero_settings(ZERO_STAGES[attempt.plan.strategy]),
            **_zero_offload(attempt.plan, swap),
        },
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        # torch's fused AdamW instead of DeepSpeed's own, which is compiled at run time; offloaded too.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        # Pods share no file system: the first rank of each pod makes the folder and writes the shared file there.
        "checkpoint": {"use_node_local_storage": attempt.plan.pods > 1},
    }


def adapter_settings(attempt: AttemptFile, task_type: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name of PEFT's configuration and its arguments; None where the model's own weights are trained."""
    tuning = attempt.spec.tuning
    match tuning.method:
        case Method.LORA | Method.QLORA:
            return "LoraConfig", {**_lora_settings(tuning.adapter), "task_type": task_type}
        case Method.IA3:
            scaled = IA3_TARGETS[str(attempt.inspection.model.config["model_type"])]
            names = {"target_modules": [*scaled.outputs, *scaled.inputs], "feedforward_modules": [*scaled.inputs]}
            return "IA3Config", {**names, "task_type": task_type}
        case Method.PROMPT:
            # Words of the vocabulary: random vectors of PEFT's own are some fifty times as large as a model's embeddings.
            start = {"prompt_tuning_init": "SAMPLE_VOCAB"}
            return "PromptTuningConfig", {
                "num_virtual_tokens": tuning.virtual_tokens_or_default,
                **start,
                "task_type": task_type,
            }
        case Method.PREFIX:
            return "PrefixTuningConfig", {
                "num_virtual_tokens": tuning.virtual_tokens_or_default,
                "task_type": task_type,
            }
        case _:
            return None


def _lora_settings(adapter: Lora) -> dict[str, Any]:
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": "all-linear" if adapter.targets == ["all-linear"] else list(adapter.targets),
        "use_rslora": adapter.variant is LoraVariant.RSLORA,
        "use_dora": adapter.variant is LoraVariant.DORA,
    }


def weights_dtype(attempt: AttemptFile) -> str:
    """Return the dtype that the base model is loaded in.

    With bf16, weights that are trained stay float32 masters (autocast computes in bf16) and frozen ones are bfloat16.
    """
    if attempt.spec.training.precision == "fp32" or attempt.spec.tuning.method is Method.FULL:
        return "float32"
    return "bfloat16"


def quantization_settings(attempt: AttemptFile) -> dict[str, Any] | None:
    """Return the arguments of BitsAndBytesConfig; None where weights are not quantised."""
    if attempt.spec.tuning.method is not Method.QLORA:
        return None
    settings: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": attempt.spec.tuning.storage.type.value,
        "bnb_4bit_use_double_quant": attempt.spec.tuning.storage.double_quantization,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    if attempt.plan.strategy in (Strategy.FSDP, Strategy.ZERO3):
        # With the default uint8 storage FSDP2 leaves the 4-bit base whole on every rank, silently. ZeRO-3 shards either; PEFT advises this one.
        settings["bnb_4bit_quant_storage"] = "bfloat16"
    return settings
