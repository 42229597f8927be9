"""Objectives whose answers are generated while training: grpo and rloo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pydantic import Field

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.model import SpecModel
from finetune_operator.api.rewards import Reward, RewardModel

KL_WEIGHTS: Final[Mapping[Objective, float]] = MappingProxyType({Objective.GRPO: 0.0, Objective.RLOO: 0.05})
"""What `beta` is where the spec does not say: TRL 1.16's, which follows the papers that left the penalty of grpo out."""


class OnlinePolicy(SpecModel):
    """How answers are generated and what they are worth."""

    rewards: list[Reward] = Field(
        min_length=1, max_length=20, description="What an answer is worth: the weighted sum of these rewards."
    )
    generations: int = Field(
        8,
        ge=2,
        le=128,
        description="Answers to each prompt, which are compared with each other. training.globalBatchSize counts answers. Default 8.",
    )
    max_completion_length: int = Field(
        256, ge=1, le=1048576, description="Tokens of the longest answer; part of training.maxLength. Default 256."
    )
    temperature: float = Field(1.0, gt=0, le=10, description="Of sampling. Default 1.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Tokens are sampled from the likeliest that together have this probability. Default 1.",
    )
    beta: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Weight of the KL divergence from the model that training started from. Default 0 for grpo, 0.05 for rloo.",
    )

    @property
    def reward_models(self) -> Sequence[RewardModel]:
        """The rewards that are models, in order."""
        return [reward.model for reward in self.rewards if reward.model is not None]

    @property
    def config_maps(self) -> Sequence[str]:
        """The ConfigMaps that functions among the rewards are in, each once, in order."""
        return list(dict.fromkeys(reward.config_map for reward in self.rewards if reward.config_map is not None))
