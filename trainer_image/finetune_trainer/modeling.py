"""The base model and the tokenizer from local files, in the precision that the spec means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_operator.api.compatibility import Strategy
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.methods import Optimizer
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import adapter_settings, quantization_settings, weights_dtype
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.inputs import model_source
from finetune_trainer.lineage import ADAPTER_FILES
from finetune_trainer.named_templates import template_source
from finetune_trainer.objectives import recipe_of
from finetune_trainer.objectives.recipe import CAUSAL


def load_tokenizer(attempt: AttemptFile, folder: Path) -> Any:
    """Return the model's tokenizer; one without a padding token pads with its end token (labels mask it)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=attempt.spec.model.trust_remote_code
    )
    if tokenizer.eos_token is None and tokenizer.pad_token is None:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"the tokenizer of {attempt.spec.model.uri} has no end token; set eos_token in tokenizer_config.json",
        )
    if (template := model_source(attempt).chat_template) is not None:
        tokenizer.chat_template = template_source(template)
    return tokenizer


@contextlib.contextmanager
def _told_as_bad_model(attempt: AttemptFile) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"the model at {attempt.spec.model.uri} cannot be loaded: {' '.join(str(error).split())[:400]}",
        ) from error


def load_base_model(attempt: AttemptFile, folder: Path, *, dtype: str | None = None, quantized: bool = True) -> Any:
    """Return the base model; publish asks for another dtype and never for 4 bits."""
    import torch

    settings = quantization_settings(attempt) if quantized else None
    device = None
    # With ZeRO-3 transformers takes no device_map, and loads quantised weights to the current GPU by itself.
    if settings and attempt.plan.accelerator == "gpu" and attempt.plan.strategy is not Strategy.ZERO3:
        device = torch.cuda.current_device()
    return _load(attempt, folder, dtype or weights_dtype(attempt), settings, device)


def load_adapted_base(attempt: AttemptFile, folder: Path, *, dtype: str) -> Any:
    """Return the base model with the weights that the adapters were trained beside, unquantised, on the CPU.

    After qlora they are the 4-bit ones widened to 16 bit: a merge into 4-bit weights would stay 4-bit, and beside the original weights an adapter
    meets other inputs than it was trained with.
    """
    import torch

    settings = quantization_settings(attempt)
    model = _load(attempt, folder, dtype, settings, None)
    return model if settings is None else model.dequantize(dtype=getattr(torch, dtype))


def _load(attempt: AttemptFile, folder: Path, dtype: str, quantization: dict[str, Any] | None, device: Any) -> Any:
    import torch
    import transformers

    head = recipe_of(attempt.spec.objective).head(attempt)
    arguments: dict[str, Any] = {}
    if head is not CAUSAL:
        transformers.set_seed(attempt.spec.training.seed)  # a new head starts from random weights
        arguments["ignore_mismatched_sizes"] = True  # one of another number of outputs is replaced
    if quantization is not None:
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
    if device is not None:
        arguments["device_map"] = {"": device}
    with _told_as_bad_model(attempt):
        model = getattr(transformers, head.auto_class).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=attempt.spec.model.trust_remote_code,
            **head.settings,
            **arguments,
        )
    name_backbone(model)
    model.config.use_cache = False
    return model


def name_backbone(model: Any) -> None:
    """Make `base_model` the part below the head where it is the model itself.

    Llama 4's class for text names a prefix that it does not have (transformers 5.23), and TRL's fused head calls `base_model` for the last hidden
    state.
    """
    if model.base_model is model and hasattr(model, "model"):
        model.base_model_prefix = "model"


def empty_base_model(attempt: AttemptFile, folder: Path) -> Any:
    """Return the base model with memory for its weights that was never written, for the ranks that FSDP2 sends their shards to.

    transformers 5.23 reads the whole model on every rank, whatever `cpu_ram_efficient_loading` says, so 8 ranks of a 70B model in float32 would
    hold 2 TiB on the host. Pages that nobody writes take no memory; the meta device would not do, since accelerate tells parameters apart by
    their addresses when it gives the sharded ones to the optimizer. Buffers are real: those outside the state dict are not sent.

    Returns None where every rank must load: without FSDP2, with 4-bit weights, and with buffers in the state dict (expert biases of DeepSeek),
    which accelerate 1.15 cannot send.
    """
    quantized = quantization_settings(attempt) is not None
    if attempt.plan.processes == 1 or attempt.plan.strategy is not Strategy.FSDP or quantized:
        return None
    import torch
    import transformers
    from accelerate import init_empty_weights

    head = recipe_of(attempt.spec.objective).head(attempt)
    trusts = attempt.spec.model.trust_remote_code
    with _told_as_bad_model(attempt), init_empty_weights():
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusts, **head.settings
        )
        model = getattr(transformers, head.auto_class).from_config(
            config, dtype=getattr(torch, weights_dtype(attempt)), trust_remote_code=trusts
        )
    if not {name for name, _ in model.named_parameters(remove_duplicate=False)}.issuperset(model.state_dict()):
        return None
    for name, parameter in list(model.named_parameters()):
        module, _, last = name.rpartition(".")
        memory = torch.nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(module), last, memory)
    model.tie_weights()
    if (folder / transformers.utils.GENERATION_CONFIG_NAME).is_file():
        # Which tokens end an answer: ranks that generate must agree on it.
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    name_backbone(model)
    model.config.use_cache = False
    return model


def gather_by_layer(deepspeed: dict[str, Any], model: Any) -> None:
    """Let ZeRO-3 keep one layer whole, and gather one ahead, as FSDP2 does: DeepSpeed's own limits are 1e9 and 5e7 parameters for every model.

    With them a model of 1B parameters would stay whole from forward to backward, 2 GiB that no estimate knows of, and one layer of a 70B model
    would be gathered again for its backward pass.
    """
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    sizes = [sum(getattr(p, "ds_numel", p.numel()) for p in layer.parameters()) for layer in layers]
    if sizes:
        limits = {"stage3_max_reuse_distance": max(sizes), "stage3_prefetch_bucket_size": max(sizes)}
        deepspeed["zero_optimization"].update(limits)


def adapter_config(attempt: AttemptFile) -> Any:
    """Return PEFT's configuration, None where the model's own weights are trained."""
    found = adapter_settings(attempt, recipe_of(attempt.spec.objective).head(attempt).task_type)
    if found is None:
        return None
    import peft

    name, settings = found
    if settings["task_type"] == "TOKEN_CLS":
        # all-linear takes the new head, which is trained whole, for one more linear layer (peft 0.21 leaves it out for SEQ_CLS alone).
        settings["exclude_modules"] = ["classifier", "score"]
    return getattr(peft, name)(**settings)


def load_adapter(model: Any, folder: Path) -> None:
    """Give new adapters the weights of a result's, before the model is sharded."""
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / ADAPTER_FILES[0])
    set_peft_model_state_dict(model, dict(weights))
    held = get_peft_model_state_dict(model)
    # What PEFT says of names that it has not found is empty for some methods and wrong for virtual tokens (0.21).
    other = [name for name in held.keys() | weights if not _holds(held.get(name), weights.get(name), torch)]
    if other:
        raise TrainerFailure(
            ExitCode.BUG,
            f"{len(other)} of {len(weights)} tensors of {folder / ADAPTER_FILES[0]} are not those of the adapters, such as {min(other)}",
        )


def _holds(held: Any, wanted: Any, torch: Any) -> bool:
    return held is not None and wanted is not None and torch.equal(held.cpu(), wanted.to(held.dtype))


def restore_float_masters(model: Any, precision: str) -> None:
    """Make trained weights float32 again: TRL casts a QLoRA's adapters to bfloat16, in which small updates are lost."""
    import torch

    if precision != "bf16":
        return
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype is not torch.float32:
            parameter.data = parameter.data.to(torch.float32)


def optimizer_class(attempt: AttemptFile, model: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return the optimizer that transformers does not know by name, with its arguments; None where it does."""
    if attempt.spec.training.optimizer is not Optimizer.MUON:
        return None
    from finetune_trainer.muon import MuonWithAdamW, outside_layers

    return MuonWithAdamW, {"lr": attempt.spec.learning_rate, "outside": outside_layers(model)}


def keep_float_losses(accelerator: Any) -> None:
    """Let FSDP2 compute in bfloat16 but add up gradients in float32, and leave outputs as they are.

    accelerate asks for bfloat16 in all three places: the loss of a step then has three digits (5.938 for 5.922). With float32 outputs every layer
    would hand on, and checkpointing keep, twice the bytes: 2 GiB per 8,192 tokens for an 8B model.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or accelerator.mixed_precision != "bf16":
        return
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
