"""Which combinations of objective, method and strategy a test trains: tests of the trainer take their cases from here, docs their ticks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_operator.api.compatibility import Method, Objective, Strategy

_SINGLE, _DDP, _FSDP = Strategy.SINGLE, Strategy.DDP, Strategy.FSDP
_ZERO1, _ZERO2, _ZERO3 = Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3

Combination = tuple[Method, Strategy]

PROVEN: Final[Mapping[Objective, tuple[Combination, ...]]] = MappingProxyType(
    {
        Objective.SFT: (  # tests/trainer/test_ranks.py, test_exactness.py, test_global_batch.py
            *((Method.FULL, strategy) for strategy in Strategy),
            *((Method.LORA, strategy) for strategy in (_SINGLE, _DDP, _FSDP, _ZERO2, _ZERO3)),
            *((Method.QLORA, strategy) for strategy in (_FSDP, _ZERO3)),
        ),
        Objective.PRETRAIN: ((Method.LORA, _SINGLE),),  # tests/trainer/test_pretraining.py
        Objective.DPO: (  # tests/trainer/test_preference.py
            *((Method.FULL, strategy) for strategy in (_SINGLE, _FSDP, _ZERO2, _ZERO3)),
            *((Method.LORA, strategy) for strategy in (_SINGLE, _DDP, _FSDP, _ZERO3)),
        ),
        # tests/trainer/test_preference_family.py
        Objective.ORPO: ((Method.LORA, _SINGLE), (Method.FULL, _FSDP), (Method.LORA, _DDP)),
        Objective.KTO: ((Method.LORA, _SINGLE), (Method.FULL, _DDP), (Method.LORA, _ZERO2)),
        Objective.REWARD: ((Method.LORA, _SINGLE), (Method.FULL, _FSDP), (Method.LORA, _DDP)),
        # tests/trainer/test_classes.py
        Objective.CLASSIFICATION: (
            *((Method.FULL, strategy) for strategy in (_SINGLE, _DDP, _FSDP, _ZERO2, _ZERO3)),
            (Method.LORA, _SINGLE),
            (Method.FREEZE, _SINGLE),
        ),
        Objective.TOKEN_CLASSIFICATION: ((Method.FULL, _SINGLE), (Method.LORA, _SINGLE)),
        Objective.EMBEDDING: (
            (Method.FULL, _SINGLE),
            (Method.LORA, _SINGLE),
            (Method.FULL, _DDP),
        ),  # tests/trainer/test_embedding.py
        # tests/trainer/test_online.py
        Objective.GRPO: (
            (Method.FULL, _SINGLE),
            (Method.LORA, _SINGLE),
            (Method.FULL, _DDP),
            (Method.FULL, _FSDP),
            (Method.LORA, _ZERO3),
        ),
        Objective.RLOO: ((Method.FULL, _SINGLE), (Method.LORA, _DDP)),
        Objective.RERANKER: (  # tests/trainer/test_reranker.py
            (Method.FULL, _SINGLE),
            (Method.LORA, _SINGLE),
            (Method.FULL, _DDP),
        ),
        # tests/trainer/test_distill.py
        Objective.DISTILL: ((Method.FULL, _SINGLE), (Method.LORA, _SINGLE), (Method.FULL, _DDP), (Method.LORA, _DDP)),
    }
)
"""The losses of several ranks are those of one process on the same batches."""
