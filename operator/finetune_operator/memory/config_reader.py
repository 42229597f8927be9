"""Typed access to config.json: what is missing or malformed is named, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from finetune_operator.memory.architecture import Head


class ConfigError(ValueError):
    """A field of config.json is missing or not what it should be."""


@dataclass(frozen=True)
class ConfigReader:
    """Typed access to config.json (the first of several names that has a value counts), and what is to be built from it."""

    config: Mapping[str, JsonValue]
    head: Head = Head.CAUSAL_LM
    labels: int = 2
    """Classes of a classification head."""
    transformers_major: int = 5
    """Which transformers' module layout is described: before 5, experts were linear modules."""

    @property
    def head_labels(self) -> int:
        """Outputs of the head that is to be built; 0 where they are words or there is none."""
        return self.labels if self.head in (Head.SEQUENCE_CLASSIFICATION, Head.TOKEN_CLASSIFICATION) else 0

    @property
    def model_type(self) -> str:
        """The family's name in transformers."""
        return self.text("model_type", "")

    def nested(self, name: str) -> ConfigReader:
        """Return a reader of an object inside the config; of an empty one if there is none."""
        value = self.config.get(name)
        return replace(self, config=value if isinstance(value, dict) else {})

    def has(self, name: str) -> bool:
        """Whether the config has this field with a value other than null."""
        return self.config.get(name) is not None

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return a whole number of at least 1."""
        value = self._first(names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{names[0]} is {value!r}, but a whole number of at least 1 is needed")
        return value

    def count(self, *names: str, default: int = 0) -> int:
        """Return a whole number of at least 0; a field with null counts as 0, a missing one as `default`."""
        name = next((name for name in names if name in self.config), None)
        if name is None:
            return default
        value = self.config[name]
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{name} is {value!r}, but a whole number of at least 0 is needed")
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

    def wholes(self, name: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers (of layers, for example), or None if the field is missing or null."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise ConfigError(f"{name} is {value!r}, but a list of whole numbers is needed")
        return tuple(item for item in value if isinstance(item, int))

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Return a list of texts, or None if the field is missing or null."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} is {value!r}, but a list of texts is needed")
        return tuple(item for item in value if isinstance(item, str))

    def _first(self, names: tuple[str, ...]) -> JsonValue:
        return next((self.config[name] for name in names if self.config.get(name) is not None), None)


@dataclass(frozen=True)
class Shape:
    """The widths that nearly every model's config has, whatever it calls them."""

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
    config: ConfigReader,
    *,
    tied: bool = False,
    heads: int | None = None,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    intermediate: int | None = None,
    vocabulary: int | None = None,
    positions: int = 0,
) -> Shape:
    """Read the widths; the arguments are the family's defaults for what the config may leave out (`intermediate`: as a multiple of hidden).

    Raises:
        ConfigError: a needed field is missing or not a whole number.
    """
    hidden = config.whole("hidden_size", "n_embd", "d_model", "dim")
    heads = config.whole("num_attention_heads", "n_head", "n_heads", default=heads)
    return Shape(
        hidden=hidden,
        layers=config.whole("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", default=kv_heads or heads),
        head_dim=config.whole("head_dim", default=head_dim or hidden // heads),
        intermediate=config.whole(
            "intermediate_size",
            "n_inner",
            "ffn_dim",
            "ffn_hidden_size",
            "hidden_dim",
            default=intermediate * hidden if intermediate else None,
        ),
        vocabulary=config.whole("vocab_size", "padded_vocab_size", default=vocabulary),
        tied=config.flag("tie_word_embeddings", default=tied),
        max_positions=max_positions(config, positions),
    )


def max_positions(config: ConfigReader, default: int = 0) -> int:
    """Return the longest sequence that the config names, or `default`; some name none, or -1."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = config.config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return default


def rotary_share(config: ConfigReader, default: float) -> float:
    """Return the share of each head that rotary embedding turns (partial_rotary_factor, GPT-NeoX: rotary_pct)."""
    for reader in (config.nested("rope_parameters"), config):
        for name in ("partial_rotary_factor", "rotary_pct"):
            if reader.has(name):
                return reader.number(name, default)
    return default


def layer_windows(config: ConfigReader, layers: int, *, every: int = 1, window: int = 0) -> tuple[int, ...]:
    """Return each layer's sliding window in tokens (0: it sees every earlier token).

    `layer_types` decides where the config has it. Otherwise every `every`-th layer is without a window (1: all of them, 0: none), as a
    `sliding_window_pattern` in the config may say differently. `window` is the family's default width.
    """
    width = config.count("sliding_window", default=window)
    types = config.texts("layer_types")
    if types is not None and len(types) == layers:
        return tuple(width if kind == "sliding_attention" else 0 for kind in types)
    every = config.count("sliding_window_pattern", default=every)
    return tuple(0 if every and (index + 1) % every == 0 else width for index in range(layers))
