"""A tokenizer.json as llama.cpp keeps a vocabulary: which of its tokenizers it is, tokens with types, and scores. Pure: read by the inspection too.

llama.cpp splits text by regular expressions of its own, named by `tokenizer.ggml.pre`. Its converter finds the name by the hash of one encoded
sentence, so that a vocabulary with one token more is unknown to it. Here the split that tokenizer.json describes is looked up itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

Json = Mapping[str, Any]

_LLAMA_3: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN_2: Final = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: Final[Mapping[tuple[str, bool], str]] = {
    (_LLAMA_3, True): "llama-bpe",
    (_LLAMA_3, False): "smaug-bpe",
    (_QWEN_2, False): "qwen2",
    (_TEKKEN, True): "tekken",
}
"""By expression and `ignore_merges` (a word that is a token is taken whole): the names of llama.cpp's src/llama-vocab.cpp."""
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE: Final = "▁"


class TokenType(IntEnum):
    """What llama.cpp does with a token (`tokenizer.ggml.token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class UnsupportedTokenizer(Exception):
    """No tokenizer of llama.cpp does the same; the text says why."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer, beside special tokens and merges."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for what sentencepiece made."""
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...] | None
    """`llama` alone: the order of merges, as llama.cpp joins the pair with the highest score first."""
    adds_space_prefix: bool | None


def read_vocabulary(tokenizer: Json, size: int | None = None) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json, filled up to the `size` rows of the model's embedding where that is known.

    Raises:
        UnsupportedTokenizer: when llama.cpp would cut text in other tokens.
    """
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise UnsupportedTokenizer(f"its tokenizer is {model.get('type') or 'of an unknown kind'}, and not BPE")
    added = {int(token["id"]): token for token in tokenizer.get("added_tokens") or ()}
    texts = {int(number): str(text) for text, number in model["vocab"].items()}
    texts |= {number: str(token["content"]) for number, token in added.items()}
    size = max(texts) + 1 if size is None else size
    if max(texts) >= size:
        raise UnsupportedTokenizer(f"its tokenizer has token {max(texts)}, and its embedding {size} rows")
    pieces = bool(model.get("byte_fallback"))
    unknown = model.get("unk_token")
    types = {
        number: _type_of(text, added.get(number), pieces=pieces, unknown=unknown) for number, text in texts.items()
    }
    for number, kind in types.items():
        if kind is TokenType.USER_DEFINED and pieces:
            texts[number] = texts[number].replace(_SPACE, " ")
    numbers = range(size)
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        pre="default" if pieces else _split_of(tokenizer),
        tokens=tuple(texts.get(number, f"[PAD{number}]") for number in numbers),
        types=tuple(types.get(number, TokenType.UNUSED) for number in numbers),
        scores=_scores(model, texts, size) if pieces else None,
        adds_space_prefix=_space_prefix(tokenizer) if pieces else None,
    )


def _type_of(text: str, added: Json | None, *, pieces: bool, unknown: str | None) -> TokenType:
    if pieces and text == unknown:
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
    return TokenType.BYTE if pieces and _BYTE.fullmatch(text) else TokenType.NORMAL


def _scores(model: Json, texts: Mapping[int, str], size: int) -> tuple[float, ...]:
    """Return for each token how late it is merged, below zero: every pair that makes it has the same place in sentencepiece's order."""
    place: dict[str, int] = {}
    for order, merge in enumerate(model.get("merges") or ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        place.setdefault(left + right, order)
    never = float(-len(place) - 1)
    return tuple(float(-place[text]) if (text := texts.get(number, "")) in place else never for number in range(size))


def _steps(part: Json | None, members: str) -> list[Json]:
    if part is None:
        return []
    return list(part[members]) if part.get("type") == "Sequence" else [part]


def _split_of(tokenizer: Json) -> str:
    """Return llama.cpp's name of a byte-level tokenizer's split."""
    normalizers = [step["type"] for step in _steps(tokenizer.get("normalizer"), "normalizers")]
    if set(normalizers) - {"NFC"}:
        raise UnsupportedTokenizer(f"its tokenizer changes text before it is cut ({', '.join(normalizers)})")
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    takes_whole = bool(tokenizer["model"].get("ignore_merges"))
    kinds = [step["type"] for step in steps]
    if not kinds or kinds[-1] != "ByteLevel":
        raise UnsupportedTokenizer(f"its tokenizer cuts text by {', '.join(kinds) or 'nothing'}, and not by bytes")
    if steps[-1].get("add_prefix_space"):
        raise UnsupportedTokenizer(
            "its tokenizer adds a space before every text, which llama.cpp's byte-level BPE does not"
        )
    own = bool(steps[-1].get("use_regex", True))
    name = None
    if kinds == ["ByteLevel"] and own and not takes_whole:
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and own and not takes_whole and steps[0].get("individual_digits"):
        name = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not own and steps[0].get("behavior") in ("Isolated", "isolated"):
        name = _SPLITS.get(((steps[0].get("pattern") or {}).get("Regex", ""), takes_whole))
    if name is None:
        raise UnsupportedTokenizer(
            "its tokenizer cuts text by rules that llama.cpp's tokenizers of Llama, Qwen, Mistral and SmolLM do not have"
        )
    return name


def _space_prefix(tokenizer: Json) -> bool:
    """Return whether a space is put before every text, as sentencepiece's tokenizers say it in tokenizer.json."""
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    unknown = {step["type"] for step in normalizers} - {"Prepend", "Replace"}
    unknown |= {step["type"] for step in steps} - {"Metaspace", "Split"}
    if unknown:
        raise UnsupportedTokenizer(
            f"its tokenizer changes text by {', '.join(sorted(unknown))}, which llama.cpp does not"
        )
    prepends = any(step["type"] == "Prepend" for step in normalizers)
    schemes = [step.get("prepend_scheme", "always") for step in steps if step["type"] == "Metaspace"]
    return prepends or any(scheme in ("first", "always") for scheme in schemes)
