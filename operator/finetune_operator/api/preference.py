"""Settings of objectives: one block of `training` each, those of preferences defined here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from pydantic import Field

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.distillation import Distill
from finetune_operator.api.embedding import Embedding
from finetune_operator.api.model import SpecModel
from finetune_operator.api.online import OnlinePolicy


class Dpo(SpecModel):
    """Direct preference optimisation (arXiv 2305.18290)."""

    beta: float = Field(
        0.1,
        gt=0,
        le=10,
        description="How strongly the model is held to the reference, the model it starts from: a larger one stays closer. Default 0.1.",
    )
    loss_type: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid",
        description="sigmoid: the paper's loss; hinge: of the margin (SLiC, arXiv 2305.10425); ipo: squared distance of the margin from "
        "1 / (2 beta), for preferences without noise (arXiv 2310.12036). Default sigmoid.",
    )


class Reward(SpecModel):
    """A reward model: one number per answer (Bradley and Terry, 1952)."""

    centering: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of the squared sum of a pair's rewards, which draws their mean to zero (arXiv 2312.09244); 0.01 is usual. Default 0.",
    )


class Orpo(SpecModel):
    """Odds ratio preference optimisation (arXiv 2403.07691)."""

    beta: float = Field(
        0.1,
        gt=0,
        le=10,
        description="Weight of the odds ratio beside the likelihood of the chosen answers; the paper's lambda. Default 0.1.",
    )


class Kto(SpecModel):
    """Kahneman-Tversky optimisation (arXiv 2402.01306)."""

    beta: float = Field(
        0.1,
        gt=0,
        le=10,
        description="How strongly the model is held to the reference: a larger one stays closer. Default 0.1.",
    )
    desirable_weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Weight of wanted answers. Wanted rows × this should be 1 to 1.33 times unwanted rows × undesirableWeight. Default 1.",
    )
    undesirable_weight: float = Field(1.0, gt=0, le=100, description="Weight of unwanted answers. Default 1.")


OBJECTIVE_SETTINGS: Final[Mapping[Objective, type[SpecModel]]] = MappingProxyType(
    {
        Objective.DPO: Dpo,
        Objective.REWARD: Reward,
        Objective.ORPO: Orpo,
        Objective.KTO: Kto,
        Objective.EMBEDDING: Embedding,
        Objective.GRPO: OnlinePolicy,
        Objective.RLOO: OnlinePolicy,
        Objective.DISTILL: Distill,
    }
)
"""Objective → the block of `training` that has its name."""
