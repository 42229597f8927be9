"""The architecture of a row: its typed widths under the `model_type` that its model's name tells.

Names are matched by family, never by one model: a family says which projections exist, what has a bias and which norm is used; every
width comes from the row. A row of an unknown family is read as a Llama, which most decoders copy.
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import JsonValue

from accuracy.rows import Row
from accuracy.stacks import stack_of
from accuracy.stacks.columns import version_of
from finetune_operator.api.plan import PlanError
from finetune_operator.memory.architecture import Architecture, architecture_of
from finetune_operator.memory.families import FAMILIES

PARAMETER_TOLERANCE: Final = 0.02
"""How far the architecture may lie from the row's own parameter count before the row's widths are tried as a Llama's instead."""

NAMES: Final[tuple[tuple[str, str], ...]] = (
    (r"mixtral", "mixtral"),
    (r"santacoder|gpt_?bigcode|starcoderbase|starcoder(?!2)", "gpt_bigcode"),
    (r"starcoder-?2", "starcoder2"),
    (r"qwen-?3.*-a\d|qwen-?3.*moe", "qwen3_moe"),
    (r"qwen-?3", "qwen3"),
    (r"qwen-?(1\.5|2)", "qwen2"),
    (r"qwen", "qwen"),
    (r"gemma-?3", "gemma3_text"),
    (r"gemma-?2-", "gemma2"),
    (r"code-?gemma|gemma", "gemma"),
    (r"phi-?(3|4)", "phi3"),
    (r"phi-?(1|2)", "phi"),
    (r"stablelm-(base|tuned)-alpha|stablelm alpha|pythia|neox|dolly|redpajama", "gpt_neox"),
    (r"stablelm", "stablelm"),
    (r"falcon", "falcon"),
    (r"baichuan", "baichuan"),
    (r"chatglm", "chatglm"),
    (r"internlm2", "internlm2"),
    (r"mpt", "mpt"),
    (r"opt-\d", "opt"),
    (r"bloom", "bloom"),
    (r"gpt-?2", "gpt2"),
    (r"granite-?4|powermoe|a800m|a400m|moe", "granitemoe"),
    (r"internlm", "internlm"),
    (r"seed-oss", "seed_oss"),
    (r"olmo-?3", "olmo3"),
    (r"deepseek-?v3|deepseek-?r1", "deepseek_v3"),
    (r"deepseek-?v2", "deepseek_v2"),
    (r"powerlm|granite", "granite"),
    (r"olmo-?2|olmo-2", "olmo2"),
    (r"mistral|zephyr|openbuddy-zephyr", "mistral"),
    (r"llama|yi-|vicuna|alpaca|deepseek-(llm|coder)|smollm", "llama"),
)
"""Pattern of the lower-case name, family; the first that matches counts."""


def family_of(name: str) -> str:
    """Return the family that a model's name tells; llama when it tells none."""
    words = name.lower()
    return next((family for pattern, family in NAMES if re.search(pattern, words)), "llama")


def config_of(row: Row, family: str) -> dict[str, JsonValue] | str:
    """Return the row's widths as config.json names them, or what is missing."""
    needed = {
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
    }
    config: dict[str, JsonValue] = {"model_type": family}
    for column, field in needed.items():
        value = row.whole(column)
        if value is None:
            return f"column {column} is {row.text(column)!r}: without it the model's tensors are not known"
        config[field] = value
    hidden = row.whole("hidden") or 1
    config["intermediate_size"] = row.whole("intermediate") or 4 * hidden
    config["num_key_value_heads"] = row.whole("kv_heads") or row.whole("heads")
    config["tie_word_embeddings"] = row.text("tied") == "1" and stack_of(row).ties_embeddings
    config["max_position_embeddings"] = row.whole("seq_len") or 4096
    if head_dim := row.whole("head_dim"):
        config["head_dim"] = head_dim
    if experts := row.whole("n_experts"):
        config["num_local_experts"] = config["num_experts"] = experts
    return config


def architecture_of_row(row: Row) -> Architecture | str:
    """Return the row's architecture in the layout of its program, or why it cannot be told."""
    found = _in_transformers(row)
    return found if isinstance(found, str) else stack_of(row).layout(found)


def _in_transformers(row: Row) -> Architecture | str:
    """Return the row's architecture as transformers builds it.

    When the family's layout misses the row's own parameter count by more than 2 %, the Llama layout is taken if it comes closer.
    """
    family = family_of(row.text("model"))
    config = config_of(row, family)
    if isinstance(config, str):
        return config
    found = _architecture(family, config, row)
    stated = _stated_billions(row)
    if stated is None:
        return found
    candidates = [item for item in (found, _architecture("llama", config, row)) if isinstance(item, Architecture)]
    if not candidates:
        return found
    if isinstance(found, Architecture) and _distance(found, stated) <= PARAMETER_TOLERANCE:
        return found
    return min(candidates, key=lambda item: _distance(item, stated))


def _stated_billions(row: Row) -> float | None:
    """Parameters of the row's model, in 10^9; a head that the program does not tie counts beside the embedding."""
    stated = row.number("params_b")
    if stated is None or stated <= 0:
        return None
    own_head = row.text("tied") == "1" and not stack_of(row).ties_embeddings
    return stated + (row.whole("vocab") or 0) * (row.whole("hidden") or 0) / 1e9 * own_head


def _distance(architecture: Architecture, billions: float) -> float:
    return abs(architecture.parameters / (billions * 1e9) - 1)


def _architecture(family: str, config: dict[str, JsonValue], row: Row) -> Architecture | str:
    known = family if family in FAMILIES else "llama"
    major = (version_of(row, "transformers") or (4,))[0]
    found = architecture_of(
        {**config, "model_type": known, **_own_names(known, config)}, transformers_major=5 if major >= 5 else 4
    )
    return found.message if isinstance(found, PlanError) else found


def _own_names(family: str, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Fields that a family calls otherwise, or counts otherwise, than the row's columns."""
    intermediate, kv_heads = config["intermediate_size"], config["num_key_value_heads"]
    if family == "qwen":
        return {"intermediate_size": 2 * intermediate if isinstance(intermediate, int) else intermediate}
    if family == "falcon":
        return {"new_decoder_architecture": kv_heads != 1, "multi_query": kv_heads == 1, "num_kv_heads": kv_heads}
    if family == "gpt_bigcode":
        return {"multi_query": kv_heads == 1}
    if family == "chatglm":
        return {
            "multi_query_group_num": kv_heads,
            "ffn_hidden_size": intermediate,
            "kv_channels": config.get("head_dim"),
            "padded_vocab_size": config["vocab_size"],
        }
    if family in ("gpt2", "mpt"):
        return {
            "n_embd": config["hidden_size"],
            "d_model": config["hidden_size"],
            "n_layer": config["num_hidden_layers"],
            "n_layers": config["num_hidden_layers"],
            "n_head": config["num_attention_heads"],
            "n_heads": config["num_attention_heads"],
            "n_inner": intermediate,
        }
    return {}
