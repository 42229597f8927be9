"""The licence that a model's card names, for the card of what is made from it. No judgement: a card is what its author wrote."""

from __future__ import annotations

from typing import Final

import yaml

from finetune_operator.api.inspection import ModelLicense
from finetune_trainer.storage import Storage

CARD_FILE: Final = "README.md"
_LONGEST: Final = 200
_FENCE: Final = "---"


def read_license(model: Storage) -> ModelLicense | None:
    """Return the licence in the front matter of the model's README.md; None without one, or where it cannot be read."""
    if not model.exists(CARD_FILE):
        return None
    lines = model.read(CARD_FILE).decode(errors="replace").splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return None
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), None)
    try:
        front = yaml.safe_load("\n".join(lines[1:end])) if end else None
    except yaml.YAMLError:
        return None
    known = front.get("license") if isinstance(front, dict) else None
    if isinstance(known, list):
        known = ", ".join(map(str, known))
    if not known or not isinstance(front, dict):
        return None
    more = [str(front[key])[:_LONGEST] if front.get(key) else None for key in ("license_name", "license_link")]
    return ModelLicense(id=str(known)[:_LONGEST], name=more[0], link=more[1])
