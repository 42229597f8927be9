"""The chat templates that `model.chatTemplate` knows by name; their text is in the trainer (finetune_trainer/chat_templates)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TEMPLATE_TOKENS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "chatml": ("<|im_start|>", "<|im_end|>"),
        "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "mistral": ("[INST]", "[/INST]"),
        "gemma": ("<start_of_turn>", "<end_of_turn>"),
        "qwen": ("<|im_start|>", "<|im_end|>"),
    }
)
"""By name the special tokens that a template writes. Each must be one token of the tokenizer: new tokens would need rows of the embedding that an
adapter does not train, and a turn that ends with several tokens ends no generation."""
END_OF_TURN: Final[Mapping[str, str]] = MappingProxyType(
    {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "qwen": "<|im_end|>"}
)
"""By name the token that ends an assistant's turn; Mistral's is the tokenizer's own end token."""
TEMPLATE_LIMIT: Final = 32_768
"""Characters of a template in the spec; the longest that TRL 1.16 ships has 18,000."""
