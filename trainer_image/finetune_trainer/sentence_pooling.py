"""How a model of sentence-transformers makes a text's vector of those of its tokens: read from its folder, so that training goes on with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.embedding import Pooling
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.layouts import listed
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.storage import Storage

POOLING_FILE: Final = "1_Pooling/config.json"
_OURS: Final[Mapping[str, Pooling]] = MappingProxyType(
    {
        "mean": Pooling.MEAN,
        "cls": Pooling.CLS,
        "lasttoken": Pooling.LAST_TOKEN,
        "pooling_mode_mean_tokens": Pooling.MEAN,
        "pooling_mode_cls_token": Pooling.CLS,
        "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
    }
)
"""Names of `pooling_mode` (sentence-transformers 6) and keys of one truth value per mode (before)."""


def read_pooling(storage: Storage) -> str | None:
    """Return a Pooling, the model's own names for others joined by +, or None where the folder does not say."""
    if not storage.exists(POOLING_FILE):
        return None
    try:
        config = json.loads(storage.read(POOLING_FILE))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise TrainerFailure(ExitCode.BAD_DATA, f"{storage.uri}/{POOLING_FILE} is not a JSON object; upload it again")
    named = config.get("pooling_mode")
    if named is None:
        named = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    names = [named] if isinstance(named, str) else [str(name) for name in named]
    return "+".join(str(_OURS.get(name, name)) for name in names) or None


def check_pooling(spec: FineTuneJobSpec, model: ModelFacts) -> None:
    """Raise a TrainerFailure where training would go on with another pooling than the model was made with, and nobody has said so."""
    known = [pooling.value for pooling in Pooling]
    if spec.objective is not Objective.EMBEDDING or spec.embedding.pooling != "auto":
        return
    if model.pooling is not None and model.pooling not in known:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"training.embedding.pooling: {model.uri} makes the vector of a text by {model.pooling} ({POOLING_FILE}), which is not offered; "
            f"set it to {listed(known)}, which the model then has to learn",
        )
