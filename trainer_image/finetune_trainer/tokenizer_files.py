"""A model's tokenizer from its files alone, as transformers would load it but without transformers.

`tokenizer.json` is read by `tokenizers`; `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` give the special
tokens and the chat template. What transformers changes on loading (bos and eos by add_bos_token and add_eos_token) is changed here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from finetune_operator.api.exit_codes import ExitCode
from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.named_templates import check_tokens, template_source
from finetune_trainer.storage import Storage, StoredFile

TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "tokenizer_config.json"
SPECIAL_TOKENS_FILE: Final = "special_tokens_map.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
SPECIAL_TOKENS: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A loaded tokenizer."""

    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]
    template: ChatTemplate | None
    files: tuple[StoredFile, ...]

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self.special_tokens.get("eos_token")


def read_tokenizer(model: Storage, chat_template: str | None = None) -> TokenizerFiles:
    """Return the tokenizer in a model's folder, with the chat template of the spec (`model.chatTemplate`) where that has one."""
    if not model.exists(TOKENIZER_FILE):
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{model.uri} has no tokenizer.json; save the tokenizer in its fast form (AutoTokenizer.from_pretrained(...).save_pretrained) "
            "beside the model",
        )
    present = [name for name in (CONFIG_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE) if model.exists(name)]
    contents = {name: model.read(name) for name in present}
    config = _object(model, CONFIG_FILE, contents.get(CONFIG_FILE))
    tokens = _special_tokens(_object(model, SPECIAL_TOKENS_FILE, contents.get(SPECIAL_TOKENS_FILE)), config)
    raw = b"".join(model.stream(TOKENIZER_FILE))
    try:
        tokenizer = Tokenizer.from_buffer(raw)
    except Exception as error:
        raise TrainerFailure(
            ExitCode.BAD_DATA,
            f"{model.uri}/tokenizer.json cannot be read ({str(error)[:200]}); save the tokenizer again",
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _set_ends(tokenizer, config, tokens)
    source = _template_source(config, contents.get(TEMPLATE_FILE))
    if chat_template is not None:
        check_tokens(chat_template, lambda token: tokenizer.token_to_id(token) is not None)
        source = template_source(chat_template)
    return TokenizerFiles(
        tokenizer=tokenizer,
        special_tokens=tokens,
        template=None if source is None else ChatTemplate(source, tokens),
        files=tuple(model.head(name) for name in (TOKENIZER_FILE, *present)),
    )


def _object(model: Storage, name: str, raw: bytes | None) -> dict[str, object]:
    if raw is None:
        return {}
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TrainerFailure(ExitCode.BAD_DATA, f"{model.uri}/{name} is not a JSON object; save the tokenizer again")
    return value


def _special_tokens(map_file: Mapping[str, object], config: Mapping[str, object]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for source in (map_file, config):  # the config wins
        for key in SPECIAL_TOKENS:
            value = source.get(key)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[key] = text
    return tokens


def _set_ends(tokenizer: Tokenizer, config: Mapping[str, object], tokens: Mapping[str, str]) -> None:
    """Do what transformers 5 does: the file's own post-processor stays unless the config speaks of bos or eos."""
    if "add_bos_token" not in config and "add_eos_token" not in config and tokenizer.post_processor is not None:
        return
    bos = tokens.get("bos_token") if config.get("add_bos_token") else None
    eos = tokens.get("eos_token") if config.get("add_eos_token") else None
    used = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token is not None]
    if any(identifier is None for _, identifier in used):
        return
    parts = [f"{bos}:0"] if bos else []
    parts += ["$A:0"] + ([f"{eos}:0"] if eos else [])
    tokenizer.post_processor = TemplateProcessing(
        single=" ".join(parts), pair=" ".join([*parts, "$B:1"]), special_tokens=used
    )


def _template_source(config: Mapping[str, object], file: bytes | None) -> str | None:
    if file is not None:
        return file.decode(errors="replace")
    value = config.get("chat_template")
    if isinstance(value, list):  # several named ones: transformers takes "default"
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
