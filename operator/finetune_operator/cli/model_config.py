"""A model's config.json for commands that run without a cluster: from a local folder, or the table of known models."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from pydantic import JsonValue

from finetune_operator.cli.manifest_file import UnreadableManifest, reason_of
from finetune_operator.planner.known_models import KNOWN_MODELS


def config_in_folder(folder: Path) -> dict[str, JsonValue]:
    """Return the content of `folder`/config.json.

    Raises:
        UnreadableManifest: there is no such file, or it holds no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableManifest(
            f"model: {path} cannot be read: {reason_of(error)}; give a folder with a config.json"
        ) from error
    if not isinstance(config, dict):
        raise UnreadableManifest(f"model: {path} holds no JSON object; give a model's config.json")
    return config


def known_config(name: str) -> dict[str, JsonValue] | None:
    """Return the numbers that are shipped of the model `name` (organisation/name), or None."""
    config = KNOWN_MODELS.get(name)
    return None if config is None else dict(config)


def similar_names(name: str) -> str:
    """Return the question for the known models whose names are like `name`, ready to stand before other advice; empty when none is."""
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? Or " if near else ""
