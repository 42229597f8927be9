"""What transformers itself says of a config: parameters per tensor class, and the weights that PEFT adapts and bitsandbytes quantises.

The model is made on the meta device, so that DeepSeek V3 takes a second and no memory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
)
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from finetune_operator.memory.architecture import Head, text_part
from finetune_operator.memory.families import ENCODERS, REMOTE_CODE

AUTO_CLASSES: Mapping[Head, Any] = {
    Head.CAUSAL_LM: AutoModelForCausalLM,
    Head.MASKED_LM: AutoModelForMaskedLM,
    Head.SEQUENCE_CLASSIFICATION: AutoModelForSequenceClassification,
    Head.TOKEN_CLASSIFICATION: AutoModelForTokenClassification,
    Head.NONE: AutoModel,
}
IN_A_LAYER = re.compile(r"(^|\.)(layers?|h|blocks)\.\d+\.")
OF_EMBEDDINGS = re.compile(r"project_in|project_out|embeddings_project|embed_proj")


@dataclass(frozen=True)
class Counts:
    """Elements of one model."""

    by_class: dict[str, int]
    linear: int
    """Weights that PEFT's all-linear adapts."""
    quantisable: int
    """Those that bitsandbytes replaces: of torch.nn.Linear itself and Conv1D."""
    linear_names: frozenset[str]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.by_class.values())


def loaded_config(config: Mapping[str, Any], labels: int = 2) -> PreTrainedConfig:
    """Return the config as transformers reads it."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **fields, num_labels=labels)


def count(config: PreTrainedConfig, head: Head) -> Counts:
    """Make the model without memory and count."""
    with torch.device("meta"):
        model = AUTO_CLASSES[head].from_config(config)
    by_class: Counter[str] = Counter()
    for path, parameter in model.named_parameters():
        owner = model.get_submodule(path.rpartition(".")[0])
        # A shared embedding may be met as the head's weight first.
        shared = parameter is model.get_input_embeddings().weight
        by_class["embedding" if shared else tensor_class(path, owner)] += parameter.numel()
    task = TaskType.SEQ_CLS if head is Head.SEQUENCE_CLASSIFICATION else None
    wanted = LoraConfig(target_modules="all-linear", task_type=task)
    adapted = _maybe_include_all_linear_layers(wanted, model).target_modules
    assert isinstance(adapted, set)
    if head is Head.TOKEN_CLASSIFICATION:  # the trainer excludes the new head (modeling.py)
        adapted -= {"classifier", "score"}
    modules = {name: model.get_submodule(name) for name in adapted}
    return Counts(
        by_class=dict(by_class),
        linear=sum(module.weight.numel() for module in modules.values()),
        quantisable=sum(m.weight.numel() for m in modules.values() if type(m) in (nn.Linear, Conv1D)),
        linear_names=frozenset(name.rpartition(".")[2] for name in adapted),
    )


def tensor_class(path: str, owner: nn.Module) -> str:
    """Return which TensorClass a parameter is of, from its path and its module's class alone."""
    kind = type(owner).__name__
    if isinstance(owner, nn.Embedding) or OF_EMBEDDINGS.search(path):
        return "embedding"
    if "Norm" in kind:
        return "norm"
    if IN_A_LAYER.search(path) is None:
        return "mlp" if ".conv." in path else "head"
    if "experts" in path and "shared_experts" not in path:
        return "experts"
    if "Router" in kind or re.search(r"\.(gate|router|shared_expert_gate)\.", path):
        return "router"
    return "attention" if re.search(r"attn|attention", path) else "mlp"


def quantised_by_bitsandbytes(config: PreTrainedConfig) -> int:
    """Return how many weights transformers' own integration gives to bitsandbytes (4 bits) when it loads a decoder."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = BitsAndBytesConfig(load_in_4bit=True)
    left_out = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    replace_with_bnb_linear(model, modules_to_not_convert=left_out, quantization_config=wanted)
    modules = (module for module in model.modules() if type(module).__name__ == "Linear4bit")
    return sum(module.in_features * module.out_features for module in modules)


def natural_head(model_type: str) -> Head:
    """Return the head that a model type was trained with."""
    return Head.MASKED_LM if model_type in ENCODERS else Head.CAUSAL_LM


def count_again(table: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the table of known architectures with parameters as the installed transformers makes them."""
    found = {}
    for name, entry in table.items():
        config = text_part(entry["config"])
        model_type = str(config["model_type"])
        if model_type not in REMOTE_CODE:
            counts = count(loaded_config(config), natural_head(model_type))
            entry = {**entry, "parameters": dict(sorted(counts.by_class.items()))}
        found[name] = entry
    return found


def main() -> None:
    """Write the parameters in known_architectures.json again: `make known-architectures`."""
    path = Path(str(files("finetune_operator.memory"))) / "known_architectures.json"
    lines = (
        f"  {json.dumps(name)}: {json.dumps(entry)}"
        for name, entry in count_again(json.loads(path.read_text())).items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
