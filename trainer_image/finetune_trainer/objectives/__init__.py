"""What a job optimises: one recipe per objective, found by name. Nothing here imports torch before a trainer is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Objective
from finetune_trainer.objectives.recipe import Recipe

_MODULES: Final[Mapping[Objective, str]] = MappingProxyType(
    {
        Objective.SFT: "supervised",
        Objective.PRETRAIN: "pretraining",
        Objective.DPO: "preference",
        Objective.ORPO: "odds_ratio",
        Objective.KTO: "judged",
        Objective.REWARD: "reward",
        Objective.CLASSIFICATION: "classification",
        Objective.TOKEN_CLASSIFICATION: "token_classification",
        Objective.EMBEDDING: "embedding",
        Objective.GRPO: "online",
        Objective.RLOO: "online",
        Objective.RERANKER: "reranker",
        Objective.DISTILL: "distillation",
    }
)
"""Objective → module of this package that has its `RECIPE`."""


def recipe_of(objective: Objective) -> Recipe:
    """Return what trains this objective."""
    recipe: Recipe = importlib.import_module(f"{__name__}.{_MODULES[objective]}").RECIPE
    return recipe
