"""Numbers of well-known models, so that `finetune plan` can size an hf:// model on a laptop without a network.

The table is memory/known_architectures.json: for each model the values of config.json that its tensors depend on (typed by hand, most of them
from memory of the published files: docs/reference/models.md), its parameters per tensor class as transformers 5.23 makes them, and other models
of the same config. A job in a cluster never uses it: there the inspection has read the model's own config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from pydantic import JsonValue

Config = Mapping[str, JsonValue]


def _table() -> dict[str, dict[str, Any]]:
    text = files("finetune_operator.memory").joinpath("known_architectures.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


def _by_name(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Config]:
    return {
        name: MappingProxyType(entry["config"]) for first, entry in table.items() for name in (first, *entry["also"])
    }


KNOWN_MODELS: Final[Mapping[str, Config]] = MappingProxyType(_by_name(_table()))
"""config.json values by hf:// name, as far as memory and time depend on them."""
