"""How each family of models lays out its tensors: one short function per `model_type`, read from transformers 5.23's modeling files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.config_reader import ConfigReader
from finetune_operator.memory.families import (
    encoders,
    gemma,
    glm,
    gpt,
    latent,
    llama,
    modern_encoders,
    moe,
    olmo,
    parallel,
    remote_code,
)

Family = Callable[[ConfigReader], Architecture]

DECODERS: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "arcee": llama.arcee,
        "bloom": gpt.bloom,
        "cohere": parallel.cohere,
        "cohere2": parallel.cohere2,
        "deepseek_v2": latent.deepseek_v2,
        "deepseek_v3": latent.deepseek_v3,
        "falcon": parallel.falcon,
        "gemma": gemma.gemma,
        "gemma2": gemma.gemma2,
        "gemma3_text": gemma.gemma3,
        "glm": glm.glm,
        "glm4": glm.glm4,
        "glm4_moe": latent.glm4_moe,
        "gpt2": gpt.gpt2,
        "gpt_bigcode": gpt.gpt_bigcode,
        "gpt_neox": parallel.gpt_neox,
        "gpt_oss": moe.gpt_oss,
        "gptj": parallel.gptj,
        "granite": llama.granite,
        "granitemoe": moe.granitemoe,
        "granitemoeshared": moe.granitemoeshared,
        "llama": llama.llama,
        "llama4_text": moe.llama4,
        "ministral": llama.mistral,
        "ministral3": llama.mistral,
        "mistral": llama.mistral,
        "mixtral": moe.mixtral,
        "mpt": gpt.mpt,
        "nemotron": gpt.nemotron,
        "olmo": olmo.olmo,
        "olmo2": olmo.olmo2,
        "olmo3": olmo.olmo3,
        "olmoe": moe.olmoe,
        "opt": gpt.opt,
        "phi": parallel.phi,
        "phi3": glm.phi3,
        "qwen2": llama.qwen2,
        "qwen2_moe": moe.qwen2_moe,
        "qwen3": llama.qwen3,
        "qwen3_moe": moe.qwen3_moe,
        "seed_oss": llama.seed_oss,
        "smollm3": llama.smollm3,
        "stablelm": parallel.stablelm,
        "starcoder2": gpt.starcoder2,
    }
)
"""Decoders that transformers has classes for."""

REMOTE_CODE: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "baichuan": remote_code.baichuan,
        "chatglm": remote_code.chatglm,
        "internlm": remote_code.internlm,
        "internlm2": remote_code.internlm2,
        "qwen": remote_code.qwen,
    }
)
"""Decoders whose code came with their weights."""

ENCODERS: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "bert": encoders.bert,
        "camembert": encoders.roberta,
        "deberta": modern_encoders.deberta,
        "deberta-v2": modern_encoders.deberta_v2,
        "distilbert": encoders.distilbert,
        "electra": encoders.electra,
        "modernbert": modern_encoders.modernbert,
        "mpnet": encoders.mpnet,
        "roberta": encoders.roberta,
        "xlm-roberta": encoders.roberta,
    }
)
"""Encoders; sentence-transformers models are of these types."""

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({**DECODERS, **REMOTE_CODE, **ENCODERS})
"""Every `model_type` that the estimator knows."""
