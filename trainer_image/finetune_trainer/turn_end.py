"""Generation with the published model ends where the chat template's turns end.

A base model's end token is often another one than the template's (Llama 3: <|end_of_text|> and <|eot_id|>). Servers that read generation_config.json
would let the model talk on past its own turn.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from finetune_operator.api.chat_templates import END_OF_TURN


def end_generation_with_turns(folder: Path, chat_template: str | None) -> None:
    """Add the token that ends the turns of a named template to the end tokens in a model folder's generation_config.json."""
    token = END_OF_TURN.get(chat_template or "")
    if token is None:
        return
    number = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token)
    path = folder / "generation_config.json"
    source = path if path.exists() else folder / "config.json"
    known = json.loads(source.read_text()).get("eos_token_id") if source.exists() else None
    ends = known if isinstance(known, list) else [] if known is None else [known]
    if number not in ends:
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**values, "eos_token_id": [*ends, number]}, indent=2, sort_keys=True) + "\n")
