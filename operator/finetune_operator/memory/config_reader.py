"""Typed access to config.json: what is missing or malformed is named, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue


class ConfigError(ValueError):
    """A field of config.json is missing or not what it should be."""


@dataclass(frozen=True)
class ConfigReader:
    """Typed access to config.json; the first of several names that has a value counts."""

    config: Mapping[str, JsonValue]

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return a whole number of at least 1."""
        value = self._first(names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{names[0]} is {value!r}, but a whole number of at least 1 is needed")
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._first(names)
        return default if value is None else bool(value)

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        value = self.config.get(name)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: float) -> float:
        """Return a number."""
        value = self.config.get(name)
        return float(value) if isinstance(value, int | float) else default

    def _first(self, names: tuple[str, ...]) -> JsonValue:
        return next((self.config[name] for name in names if self.config.get(name) is not None), None)


@dataclass(frozen=True)
class Shape:
    """The widths that nearly every decoder's config names the same way."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    max_positions: int

    @property
    def query_width(self) -> int:
        """Output width of the query projection."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Output width of the key projection."""
        return self.kv_heads * self.head_dim


def read_shape(
    config: ConfigReader, *, tied: bool = False, head_dim: int | None = None, kv_heads: int | None = None
) -> Shape:
    """Read the widths; the arguments are the family's defaults for what the config may leave out.

    Raises:
        ConfigError: a needed field is missing or not a whole number.
    """
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    return Shape(
        hidden=hidden,
        layers=config.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", default=kv_heads or heads),
        head_dim=config.whole("head_dim", default=head_dim or hidden // heads),
        intermediate=config.whole("intermediate_size"),
        vocabulary=config.whole("vocab_size"),
        tied=config.flag("tie_word_embeddings", default=tied),
        max_positions=config.whole("max_position_embeddings", default=0) if _has_positions(config) else 0,
    )


def _has_positions(config: ConfigReader) -> bool:
    return isinstance(config.config.get("max_position_embeddings"), int)
