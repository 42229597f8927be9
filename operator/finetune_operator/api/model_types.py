"""What single model types can do that others cannot: adapters beside experts, packed rows that do not see each other."""

from __future__ import annotations

from typing import Final

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
