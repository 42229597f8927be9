"""Numbers of well-known models, so that `finetune plan` can size an hf:// model on a laptop without a network.

Each row is what the model's public config.json says (2026-11); a job in a cluster never uses this table, it has the inspection.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import JsonValue

Config = Mapping[str, JsonValue]


def _config(
    model_type: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    positions: int,
    **more: JsonValue,
) -> Config:
    return MappingProxyType(
        {
            "model_type": model_type,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions,
            **more,
        }
    )


def _gpt2(hidden: int, layers: int, heads: int) -> Config:
    return MappingProxyType(
        {
            "model_type": "gpt2",
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
            "vocab_size": 50257,
            "n_positions": 1024,
        }
    )


_TIED: Final = {"tie_word_embeddings": True}
_LLAMA_3_8B: Final = _config("llama", 4096, 14336, 32, 32, 8, 128256, 8192)
_LLAMA_31_8B: Final = _config("llama", 4096, 14336, 32, 32, 8, 128256, 131072)
_LLAMA_31_70B: Final = _config("llama", 8192, 28672, 80, 64, 8, 128256, 131072)
_LLAMA_32_1B: Final = _config("llama", 2048, 8192, 16, 32, 8, 128256, 131072, head_dim=64, **_TIED)
_LLAMA_32_3B: Final = _config("llama", 3072, 8192, 28, 24, 8, 128256, 131072, head_dim=128, **_TIED)
_QWEN25_05B: Final = _config("qwen2", 896, 4864, 24, 14, 2, 151936, 32768, **_TIED)
_QWEN25_15B: Final = _config("qwen2", 1536, 8960, 28, 12, 2, 151936, 32768, **_TIED)
_QWEN25_3B: Final = _config("qwen2", 2048, 11008, 36, 16, 2, 151936, 32768, **_TIED)
_QWEN25_7B: Final = _config("qwen2", 3584, 18944, 28, 28, 4, 152064, 32768)
_QWEN25_14B: Final = _config("qwen2", 5120, 13824, 48, 40, 8, 152064, 32768)
_QWEN25_32B: Final = _config("qwen2", 5120, 27648, 64, 40, 8, 152064, 32768)
_QWEN25_72B: Final = _config("qwen2", 8192, 29568, 80, 64, 8, 152064, 32768)
_MISTRAL_7B: Final = _config("mistral", 4096, 14336, 32, 32, 8, 32768, 32768)

KNOWN_MODELS: Final[Mapping[str, Config]] = MappingProxyType(
    {
        "meta-llama/Llama-2-7b-hf": _config("llama", 4096, 11008, 32, 32, 32, 32000, 4096),
        "meta-llama/Llama-2-13b-hf": _config("llama", 5120, 13824, 40, 40, 40, 32000, 4096),
        "meta-llama/Llama-2-70b-hf": _config("llama", 8192, 28672, 80, 64, 8, 32000, 4096),
        "meta-llama/Meta-Llama-3-8B": _LLAMA_3_8B,
        "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3_8B,
        "meta-llama/Llama-3.1-8B": _LLAMA_31_8B,
        "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_31_8B,
        "meta-llama/Llama-3.1-70B": _LLAMA_31_70B,
        "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_31_70B,
        "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_31_70B,
        "meta-llama/Llama-3.2-1B": _LLAMA_32_1B,
        "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_32_1B,
        "meta-llama/Llama-3.2-3B": _LLAMA_32_3B,
        "meta-llama/Llama-3.2-3B-Instruct": _LLAMA_32_3B,
        "mistralai/Mistral-7B-v0.1": _config("mistral", 4096, 14336, 32, 32, 8, 32000, 32768),
        "mistralai/Mistral-7B-v0.3": _MISTRAL_7B,
        "mistralai/Mistral-7B-Instruct-v0.3": _MISTRAL_7B,
        "mistralai/Mixtral-8x7B-v0.1": _config(
            "mixtral", 4096, 14336, 32, 32, 8, 32000, 32768, num_local_experts=8, num_experts_per_tok=2
        ),
        "Qwen/Qwen2.5-0.5B": _QWEN25_05B,
        "Qwen/Qwen2.5-0.5B-Instruct": _QWEN25_05B,
        "Qwen/Qwen2.5-1.5B": _QWEN25_15B,
        "Qwen/Qwen2.5-1.5B-Instruct": _QWEN25_15B,
        "Qwen/Qwen2.5-3B": _QWEN25_3B,
        "Qwen/Qwen2.5-3B-Instruct": _QWEN25_3B,
        "Qwen/Qwen2.5-7B": _QWEN25_7B,
        "Qwen/Qwen2.5-7B-Instruct": _QWEN25_7B,
        "Qwen/Qwen2.5-14B": _QWEN25_14B,
        "Qwen/Qwen2.5-14B-Instruct": _QWEN25_14B,
        "Qwen/Qwen2.5-32B": _QWEN25_32B,
        "Qwen/Qwen2.5-32B-Instruct": _QWEN25_32B,
        "Qwen/Qwen2.5-72B": _QWEN25_72B,
        "Qwen/Qwen2.5-72B-Instruct": _QWEN25_72B,
        "Qwen/Qwen3-0.6B": _config("qwen3", 1024, 3072, 28, 16, 8, 151936, 40960, head_dim=128, **_TIED),
        "Qwen/Qwen3-1.7B": _config("qwen3", 2048, 6144, 28, 16, 8, 151936, 40960, head_dim=128, **_TIED),
        "Qwen/Qwen3-4B": _config("qwen3", 2560, 9728, 36, 32, 8, 151936, 40960, head_dim=128, **_TIED),
        "Qwen/Qwen3-8B": _config("qwen3", 4096, 12288, 36, 32, 8, 151936, 40960, head_dim=128),
        "Qwen/Qwen3-14B": _config("qwen3", 5120, 17408, 40, 40, 8, 151936, 40960, head_dim=128),
        "Qwen/Qwen3-32B": _config("qwen3", 5120, 25600, 64, 64, 8, 151936, 40960, head_dim=128),
        "Qwen/Qwen3-30B-A3B": _config(
            "qwen3_moe",
            2048,
            6144,
            48,
            32,
            4,
            151936,
            40960,
            head_dim=128,
            moe_intermediate_size=768,
            num_experts=128,
            num_experts_per_tok=8,
        ),
        "google/gemma-2b": _config("gemma", 2048, 16384, 18, 8, 1, 256000, 8192, head_dim=256),
        "google/gemma-2-2b": _config("gemma2", 2304, 9216, 26, 8, 4, 256000, 8192, head_dim=256),
        "google/gemma-2-9b": _config("gemma2", 3584, 14336, 42, 16, 8, 256000, 8192, head_dim=256),
        "google/gemma-2-27b": _config("gemma2", 4608, 36864, 46, 32, 16, 256000, 8192, head_dim=128),
        "google/gemma-3-1b-it": _config("gemma3_text", 1152, 6912, 26, 4, 1, 262144, 32768, head_dim=256),
        "microsoft/Phi-3-mini-4k-instruct": _config("phi3", 3072, 8192, 32, 32, 32, 32064, 4096),
        "microsoft/phi-4": _config("phi3", 5120, 17920, 40, 40, 10, 100352, 16384),
        "allenai/OLMo-2-1124-7B": _config("olmo2", 4096, 11008, 32, 32, 32, 100352, 4096),
        "ibm-granite/granite-3.1-2b-instruct": _config("granite", 2048, 8192, 40, 32, 8, 49155, 131072, **_TIED),
        "HuggingFaceTB/SmolLM2-135M": _config("llama", 576, 1536, 30, 9, 3, 49152, 8192, **_TIED),
        "HuggingFaceTB/SmolLM2-135M-Instruct": _config("llama", 576, 1536, 30, 9, 3, 49152, 8192, **_TIED),
        "HuggingFaceTB/SmolLM2-1.7B": _config("llama", 2048, 8192, 24, 32, 32, 49152, 8192, **_TIED),
        "HuggingFaceTB/SmolLM3-3B": _config("smollm3", 2048, 11008, 36, 16, 4, 128256, 65536),
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _config("llama", 2048, 5632, 22, 32, 4, 32000, 2048),
        "bigcode/starcoder2-3b": _config("starcoder2", 3072, 12288, 30, 24, 2, 49152, 16384),
        "EleutherAI/pythia-1b": _config("gpt_neox", 2048, 8192, 16, 8, 8, 50304, 2048),
        "EleutherAI/pythia-6.9b": _config("gpt_neox", 4096, 16384, 32, 32, 32, 50432, 2048),
        "openai-community/gpt2": _gpt2(768, 12, 12),
        "openai-community/gpt2-xl": _gpt2(1600, 48, 25),
    }
)
"""config.json values by hf:// name, as far as memory and time depend on them."""
