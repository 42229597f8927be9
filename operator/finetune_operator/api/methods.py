"""Ways to train a model's parameters: which of them, and what steps them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from finetune_operator.api.words import Word


class Method(Word):
    """Which parameters a job trains."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"
    FREEZE = "freeze"
    SPECTRUM = "spectrum"
    IA3 = "ia3"
    PROMPT = "prompt"
    PREFIX = "prefix"


METHOD_MEANINGS: Final[Mapping[Method, str]] = MappingProxyType(
    {
        Method.FULL: "every weight is trained",
        Method.LORA: "low-rank adapters beside frozen 16-bit weights (`tuning.lora`; variants lora, rslora, dora)",
        Method.QLORA: "the same beside frozen 4-bit weights (`tuning.quantization`)",
        Method.FREEZE: "the last layers, the last norm and the head are trained, the rest is frozen (`tuning.freeze`)",
        Method.SPECTRUM: "of each kind of linear layer those with the best signal-to-noise ratio are trained (`tuning.spectrum`)",
        Method.IA3: "a factor per output of keys (or queries) and values, and per input of the MLP's last layer (arXiv 2205.05638)",
        Method.PROMPT: "virtual tokens before every row (`tuning.virtualTokens`; arXiv 2104.08691)",
        Method.PREFIX: "virtual keys and values in every layer (`tuning.virtualTokens`; arXiv 2101.00190)",
    }
)

BASE_METHODS: Final = frozenset({Method.FULL, Method.FREEZE, Method.SPECTRUM})
"""They change the model's own weights: what is published is a whole model. The others put something small beside them."""
PARTIAL_METHODS: Final = BASE_METHODS - {Method.FULL}
"""They train some of the model's own weights and freeze the rest."""
LORA_METHODS: Final = frozenset({Method.LORA, Method.QLORA})
"""Those that tuning.lora belongs to."""
VIRTUAL_TOKEN_METHODS: Final = frozenset({Method.PROMPT, Method.PREFIX})
"""They put something before a row: nothing of it can be merged into weights, and packed rows would have it once together."""


class Ia3Targets(NamedTuple):
    """Names of the modules that ia3 scales."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]


def _keys_and_values(*outputs: str, mlp: str) -> Ia3Targets:
    return Ia3Targets(outputs, (mlp,))


_LLAMA, _GEMMA = (
    _keys_and_values("k_proj", "v_proj", mlp="down_proj"),
    _keys_and_values("q_proj", "v_proj", mlp="down_proj"),
)
IA3_TARGETS: Final[Mapping[str, Ia3Targets]] = MappingProxyType(
    {
        **dict.fromkeys(("llama", "mistral"), _LLAMA),
        **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), _GEMMA),
        "gpt_neox": _keys_and_values("query_key_value", mlp="dense_4h_to_h"),
        "opt": _keys_and_values("q_proj", "k_proj", mlp="fc2"),
        "phi": _keys_and_values("q_proj", "v_proj", mlp="fc2"),
    }
)
"""What ia3 scales in models of a type: PEFT 0.21's own choice (peft/utils/constants.py; a test compares)."""


class Optimizer(Word):
    """What makes a step of the gradients."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw-8bit"
    PAGED_ADAMW = "paged-adamw"
    PAGED_ADAMW_8BIT = "paged-adamw-8bit"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    MUON = "muon"


OPTIMIZER_MEANINGS: Final[Mapping[Optimizer, str]] = MappingProxyType(
    {
        Optimizer.ADAMW: "torch's fused AdamW, two float32 moments",
        Optimizer.ADAMW_8BIT: "bitsandbytes' AdamW, moments of one byte; of small tensors and embeddings float32",
        Optimizer.PAGED_ADAMW: "bitsandbytes' AdamW, float32 moments that move to the host when the GPU is full",
        Optimizer.PAGED_ADAMW_8BIT: "both: moments of one byte that can move to the host",
        Optimizer.ADAFACTOR: "a moment per row and column instead of per weight (arXiv 1804.04235)",
        Optimizer.SGD: "no moments at all; it wants another learning rate than the default",
        Optimizer.MUON: "orthogonalised momentum for matrices in the layers, AdamW for the rest (arXiv 2502.16982)",
    }
)
BITSANDBYTES_OPTIMIZERS: Final = (Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW, Optimizer.PAGED_ADAMW_8BIT)
