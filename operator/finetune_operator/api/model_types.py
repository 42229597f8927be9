"""What single model types can do that others cannot: adapters beside experts, packed rows that do not see each other, heads that give numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Objective

EXPERTS_ADAPTED: Final = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "olmoe", "qwen3_moe"})
"""Model types whose experts and router get adapters from targets all-linear, or from the names that their linear modules had in transformers 4.

PEFT 0.21 translates those names to the parameters of transformers 5 (peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe),
each expert with its own pair of matrices, gate and up with twice the rank. Linear modules of the same names (shared experts, dense layers) then
get none. It adds the adapters' product to the weights in every pass (lora.ParamWrapper): no dropout, and gate and up together or not at all.
Qwen 2's, Granite's and Llama 4's experts and gpt-oss's have no adapters with all-linear.
"""


PACKING_ISOLATED: Final = frozenset(
    {
        *(
            "arcee",
            "cohere",
            "cohere2",
            "deepseek_v2",
            "deepseek_v3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "glm",
            "glm4",
            "glm4_moe",
        ),
        *(
            "gpt2",
            "gpt_bigcode",
            "gpt_neox",
            "gptj",
            "granite",
            "granitemoe",
            "granitemoeshared",
            "llama",
            "llama4_text",
        ),
        *(
            "ministral",
            "ministral3",
            "mistral",
            "mixtral",
            "nemotron",
            "olmo",
            "olmo2",
            "olmo3",
            "olmoe",
            "phi",
            "phi3",
        ),
        *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    }
)
"""Model types whose packed rows do not see each other in transformers 5.23 when positions start anew with each row: another row before it does
not change a row's logits (tests/trainer/test_packing_isolation.py; with experts by rounding, 3e-7)."""
PACKING_LEAKS: Final = frozenset({"bloom", "falcon", "gpt_oss", "mpt", "opt"})
"""Model types whose packed rows do see each other (the same test): they make their own masks or positions, and ask for no block-diagonal one."""

_NO_SEQUENCE_HEAD: Final = frozenset(
    {
        *("cohere", "cohere2", "glm4_moe", "granite", "granitemoe", "granitemoeshared", "llama4_text", "olmoe"),
        *("baichuan", "chatglm", "internlm", "internlm2", "qwen"),
    }
)
_NO_TOKEN_HEAD: Final = frozenset(
    {
        *("cohere", "cohere2", "deepseek_v2", "gemma3_text", "glm4_moe", "gptj", "granite", "granitemoe"),
        *("granitemoeshared", "llama4_text", "olmo", "olmo2", "olmo3", "olmoe", "opt"),
        *("baichuan", "chatglm", "internlm", "internlm2", "qwen"),
    }
)

ENCODERS: Final = frozenset(
    {
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "roberta",
        "xlm-roberta",
    }
)
"""Model types whose tokens see those behind them as well."""

_OWN_CODE: Final = frozenset({"baichuan", "chatglm", "internlm", "internlm2", "qwen"})

NO_HEAD: Final[Mapping[Objective, frozenset[str]]] = MappingProxyType(
    {
        Objective.REWARD: _NO_SEQUENCE_HEAD,
        Objective.CLASSIFICATION: _NO_SEQUENCE_HEAD,
        Objective.TOKEN_CLASSIFICATION: _NO_TOKEN_HEAD,
        Objective.EMBEDDING: _OWN_CODE,
        Objective.RERANKER: _NO_SEQUENCE_HEAD,
    }
)
"""Model types without a class for the objective in transformers 5.23's tables of AutoModelForSequenceClassification,
AutoModelForTokenClassification and AutoModel (a test compares); models that bring their own code are not tried."""
