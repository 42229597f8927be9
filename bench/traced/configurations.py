"""Small models of every family: content of config.json with widths drawn at random, kept large enough that 2 % means something."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

Config = dict[str, Any]

VOCABULARIES: Final = (4096, 16384, 32000, 50304)


def _decoder(random: Random, model_type: str, **more: Any) -> Config:
    """The fields that nearly every decoder names the same way; heads of 64 or 128, grouped or not."""
    head_dim = random.choice((64, 128))
    heads = random.choice((4, 6, 8))
    groups = random.choice((1, 2, heads))
    return {
        "model_type": model_type,
        "hidden_size": heads * head_dim,
        "intermediate_size": random.choice((2, 3, 4)) * heads * head_dim,
        "num_hidden_layers": random.choice((2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // groups,
        "head_dim": head_dim,
        "vocab_size": random.choice(VOCABULARIES),
        "max_position_embeddings": 4096,
        **more,
    }


def _llama(random: Random) -> Config:
    bias = random.random() < 0.2
    return _decoder(
        random, "llama", tie_word_embeddings=random.random() < 0.3, attention_bias=bias, mlp_bias=random.random() < 0.1
    )


def _like(model_type: str, **more: Any) -> Callable[[Random], Config]:
    return lambda random: _decoder(random, model_type, **more)


def _ungrouped(model_type: str, **more: Any) -> Callable[[Random], Config]:
    """Families whose queries, keys and values have the same width."""

    def draw(random: Random) -> Config:
        config = _decoder(random, model_type, **more)
        del config["head_dim"]
        return config | {"num_key_value_heads": config["num_attention_heads"]}

    return draw


def _gemma(model_type: str, **more: Any) -> Callable[[Random], Config]:
    def draw(random: Random) -> Config:
        config = _decoder(random, model_type, **more)
        return config | {"head_dim": 256, "num_attention_heads": 4, "num_key_value_heads": random.choice((1, 2))}

    return draw


def _gpt2(random: Random) -> Config:
    heads = random.choice((6, 8, 12))
    return {
        "model_type": "gpt2",
        "n_embd": 64 * heads,
        "n_layer": random.choice((2, 3)),
        "n_head": heads,
        "n_positions": 2048,
        "vocab_size": random.choice(VOCABULARIES),
    }


def _falcon(random: Random) -> Config:
    heads = random.choice((8, 16))
    new = random.random() < 0.5
    return {
        "model_type": "falcon",
        "hidden_size": 64 * heads,
        "num_hidden_layers": random.choice((2, 3)),
        "num_attention_heads": heads,
        "num_kv_heads": heads // 4,
        "new_decoder_architecture": new,
        "multi_query": not new,
        "parallel_attn": True,
        "alibi": False,
        "bias": False,
        "vocab_size": random.choice(VOCABULARIES),
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


def _experts(model_type: str, count: str, **more: Any) -> Callable[[Random], Config]:
    """Mixtures of experts; `count` is the field that names how many there are."""

    def draw(random: Random) -> Config:
        config = _decoder(random, model_type, **more)
        config |= {count: random.choice((4, 8)), "num_experts_per_tok": 2}
        if model_type != "mixtral":
            config["moe_intermediate_size"] = config["intermediate_size"] // 4
        return config

    return draw


def _qwen2_moe(random: Random) -> Config:
    config = _experts("qwen2_moe", "num_experts")(random)
    del config["head_dim"]
    return config | {"shared_expert_intermediate_size": config["hidden_size"], "decoder_sparse_step": 1}


def _deepseek(model_type: str) -> Callable[[Random], Config]:
    def draw(random: Random) -> Config:
        heads = random.choice((4, 8))
        return {
            "model_type": model_type,
            "hidden_size": 128 * heads,
            "intermediate_size": 384 * heads,
            "moe_intermediate_size": 64 * heads,
            "num_hidden_layers": random.choice((2, 3)),
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "q_lora_rank": random.choice((None, 256)),
            "kv_lora_rank": 128,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "vocab_size": random.choice(VOCABULARIES),
            "max_position_embeddings": 4096,
        }

    return draw


def _encoder(model_type: str, **more: Any) -> Callable[[Random], Config]:
    def draw(random: Random) -> Config:
        heads = random.choice((6, 8, 12))
        return {
            "model_type": model_type,
            "hidden_size": 64 * heads,
            "intermediate_size": 256 * heads,
            "num_hidden_layers": random.choice((2, 3)),
            "num_attention_heads": heads,
            "vocab_size": random.choice((8192, 30528)),
            "max_position_embeddings": 2050,
            **more,
        }

    return draw


def _distilbert(random: Random) -> Config:
    heads = random.choice((6, 8, 12))
    return {
        "model_type": "distilbert",
        "dim": 64 * heads,
        "hidden_dim": 256 * heads,
        "n_layers": random.choice((2, 3)),
        "n_heads": heads,
        "vocab_size": 30528,
        "max_position_embeddings": 2050,
    }


DECODERS: Final[dict[str, Callable[[Random], Config]]] = {
    "llama": _llama,
    "mistral": _like("mistral", sliding_window=None),
    "qwen2": _like("qwen2"),
    "qwen3": _like("qwen3"),
    "gemma": _gemma("gemma"),
    "gemma2": _gemma("gemma2"),
    "gemma3_text": _gemma("gemma3_text"),
    "phi": _ungrouped("phi", partial_rotary_factor=0.5),
    "phi3": _ungrouped("phi3", pad_token_id=0),
    "gpt2": _gpt2,
    "gpt_neox": _ungrouped("gpt_neox"),
    "falcon": _falcon,
    "glm": _like("glm", attention_bias=True, pad_token_id=0, partial_rotary_factor=0.5),
    "glm4": _like("glm4", attention_bias=True, pad_token_id=0, partial_rotary_factor=0.5),
    "granite": _like("granite"),
    "olmo": _ungrouped("olmo"),
    "olmo2": _ungrouped("olmo2"),
    "olmo3": _ungrouped("olmo3"),
    "starcoder2": _like("starcoder2"),
    "smollm3": _like("smollm3"),
    "cohere": _ungrouped("cohere", pad_token_id=0),
    "stablelm": _ungrouped("stablelm"),
}

MIXTURES: Final[dict[str, Callable[[Random], Config]]] = {
    "mixtral": _experts("mixtral", "num_local_experts", sliding_window=None),
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _experts("qwen3_moe", "num_experts"),
    "deepseek_v2": _deepseek("deepseek_v2"),
    "deepseek_v3": _deepseek("deepseek_v3"),
}

ENCODERS: Final[dict[str, Callable[[Random], Config]]] = {
    "bert": _encoder("bert"),
    "roberta": _encoder("roberta"),
    "xlm-roberta": _encoder("xlm-roberta"),
    "modernbert": _encoder("modernbert", pad_token_id=0),
    "distilbert": _distilbert,
}

FAMILIES: Final = {**DECODERS, **MIXTURES, **ENCODERS}
