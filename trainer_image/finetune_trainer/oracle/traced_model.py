"""Builds the model that a setting describes, on fake tensors: transformers' own modules, PEFT's own adapters, in the right number formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from finetune_trainer.modeling import name_backbone
from finetune_trainer.oracle.chunked_head import DPO_OUTPUTS, SFT_OUTPUTS, add_chunked_head
from finetune_trainer.oracle.quantised_linear import TracedLinear4bit, quantise_linears
from finetune_trainer.oracle.setting import Precision, TracedLoss, TracedMethod, TracedObjective, TraceSetting
from finetune_trainer.unfrozen import last_parts


@dataclass(frozen=True)
class TracedModel:
    """A model with fake weights, ready to train."""

    module: Any
    """What a trainer calls; PEFT's wrapper where there are adapters."""
    backbone: Any
    """The part below the head: its output is the last hidden state."""
    layers: tuple[Any, ...]

    @property
    def quantised(self) -> list[torch.Tensor]:
        """What 4-bit weights hold beside their parameters."""
        return [
            tensor for part in self.module.modules() if isinstance(part, TracedLinear4bit) for tensor in part.held()
        ]

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that get gradients."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


def load_config(config: Mapping[str, Any], setting: TraceSetting) -> Any:
    """Return transformers' configuration for the content of a config.json; `num_hidden_layers` and its like may have been cut."""
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name != "model_type"}
    loaded = AutoConfig.for_model(config["model_type"], **fields)
    for part in {id(c): c for c in (loaded, loaded.get_text_config())}.values():
        if setting.attention == "eager":
            part._attn_implementation = (
                "eager"  # otherwise transformers' choice: sdpa, or eager where a model has no other
            )
        part.use_cache = False
    text = loaded.get_text_config()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(getattr(text, name, None), int) and getattr(text, name) >= text.vocab_size:
            setattr(text, name, 0)  # a default of the family that a shrunk vocabulary does not hold
    if setting.objective in (TracedObjective.REWARD, TracedObjective.CLASSIFICATION):
        loaded.num_labels = 1 if setting.objective is TracedObjective.REWARD else 2
        # A head that classifies looks for the last token that is no padding.
        text.pad_token_id = 0
    return loaded


def build_model(config: Mapping[str, Any], setting: TraceSetting, *, is_reference: bool = False) -> TracedModel:
    """Return the model of `config` for `setting`; call it inside the fake mode.

    Built on the meta device and then given fake weights: PEFT and bitsandbytes move and swap parameters, which fake tensors refuse.
    A reference model (DPO without adapters) is frozen and has the policy's type of weights.
    """
    loaded = load_config(config, setting)
    with unset_fake_temporarily(), torch.device("meta"):
        model, module = _build_on_meta(loaded, setting, is_reference=is_reference)
    for part in module.modules():
        if isinstance(part, TracedLinear4bit):
            part.hold()
    _give_fake_weights(module)
    backbone = model.base_model
    layers = _layers(backbone, loaded.get_text_config().num_hidden_layers)
    module.train(not is_reference)
    return TracedModel(module=module, backbone=backbone, layers=layers)


def _build_on_meta(loaded: Any, setting: TraceSetting, *, is_reference: bool) -> tuple[Any, Any]:
    """Return transformers' model, and what wraps it (itself, where nothing does)."""
    model = _auto_class(setting).from_config(loaded, dtype=_base_dtype(setting))
    name_backbone(model)
    if setting.method is TracedMethod.QLORA:
        model.requires_grad_(False)
        quantise_linears(model, torch.bfloat16)
        model.is_loaded_in_4bit = True
    if setting.kbit_preparation:
        _prepare_for_kbit(model)
    if setting.loss is TracedLoss.CHUNKED:
        outputs = DPO_OUTPUTS if setting.objective is TracedObjective.DPO else SFT_OUTPUTS
        add_chunked_head(model, ("log_probs",) if is_reference else outputs)
    if setting.checkpointing and not is_reference:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if is_reference:
        model.requires_grad_(False)
        return model, model
    if setting.method is TracedMethod.FREEZE:
        model.requires_grad_(False)
        for part in last_parts(model, setting.trained_layers):
            part.requires_grad_(True)
            if setting.precision is Precision.AUTOCAST:
                part.to(torch.float32)
    if not setting.has_adapters:
        return model, model
    module = _with_adapters(model, setting)
    if setting.checkpointing:
        model.enable_input_require_grads()
    return model, module


def _give_fake_weights(module: Any) -> None:
    """Replace every meta parameter and buffer by a fake one on the CPU; what is shared stays shared."""
    fakes: dict[int, Any] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None or (isinstance(part, TracedLinear4bit) and name == "weight"):
                continue
            if id(parameter) not in fakes:
                data = torch.empty(parameter.shape, dtype=parameter.dtype)
                fakes[id(parameter)] = torch.nn.Parameter(data, requires_grad=parameter.requires_grad)
            part._parameters[name] = fakes[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                if id(buffer) not in fakes:
                    fakes[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
                part._buffers[name] = fakes[id(buffer)]


def _auto_class(setting: TraceSetting) -> Any:
    import transformers

    if setting.objective in (TracedObjective.REWARD, TracedObjective.CLASSIFICATION):
        return transformers.AutoModelForSequenceClassification
    if setting.objective is TracedObjective.MASKED_LM:
        return transformers.AutoModelForMaskedLM
    return transformers.AutoModelForCausalLM


def _base_dtype(setting: TraceSetting) -> torch.dtype:
    if setting.precision in (Precision.FLOAT32, Precision.AUTOCAST_FLOAT32_BASE):
        return torch.float32
    if setting.precision is Precision.AUTOCAST and setting.method is TracedMethod.FULL:
        return torch.float32
    return torch.bfloat16


def _adapter_dtype(setting: TraceSetting) -> torch.dtype:
    return torch.bfloat16 if setting.precision is Precision.BF16 else torch.float32


def _prepare_for_kbit(model: Any) -> None:
    """What peft.prepare_model_for_kbit_training does to number formats: every half-precision parameter becomes float32."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.to(torch.float32)


def _layers(backbone: Any, count: int) -> tuple[Any, ...]:
    """Return the backbone's transformer layers.

    Raises:
        ValueError: the backbone has no list of that many modules.
    """
    lists = [module for module in backbone.modules() if isinstance(module, torch.nn.ModuleList)]
    found = next((tuple(each) for each in lists if len(each) == count), None)
    if found is None:
        raise ValueError(
            f"{type(backbone).__name__} has no list of {count} layers (config.json's number of hidden layers); the oracle needs one"
        )
    return found


def _with_adapters(model: Any, setting: TraceSetting) -> Any:
    from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

    targets: Any = "all-linear" if setting.targets == ("all-linear",) else list(setting.targets)
    task = {
        TracedObjective.REWARD: "SEQ_CLS",
        TracedObjective.CLASSIFICATION: "SEQ_CLS",
        TracedObjective.MASKED_LM: None,
    }.get(setting.objective, "CAUSAL_LM")
    config: Any
    if setting.method is TracedMethod.IA3:
        config = IA3Config(task_type=task)
    elif setting.method is TracedMethod.PROMPT:
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=setting.virtual_tokens)
    else:
        config = LoraConfig(
            task_type=task,
            r=setting.rank,
            lora_alpha=2 * setting.rank,
            lora_dropout=setting.dropout,
            target_modules=targets,
            use_dora=setting.method is TracedMethod.DORA,
            use_rslora=setting.method is TracedMethod.RSLORA,
        )
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(_adapter_dtype(setting))
    return wrapped
