"""The combinations that do not work: CRD rules, planner, docs and tests all read this table.

Each row was measured or read in the library's source; the version is named, so that an upgrade re-opens the question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.compatibility import (
    LABELLING,
    ONLINE,
    PAIRING,
    PREFERENCES,
    SHARDED_STRATEGIES,
    ZERO_STAGES,
    Checkpointing,
    Objective,
    Strategy,
)
from finetune_operator.api.methods import (
    BITSANDBYTES_OPTIMIZERS,
    LORA_METHODS,
    PARTIAL_METHODS,
    VIRTUAL_TOKEN_METHODS,
    Method,
    Optimizer,
)


@dataclass(frozen=True)
class Impossible:
    """One combination that does not work; a None matches everything."""

    method: Method | None
    strategy: Strategy | None
    accelerator: str | None
    why: str
    remedy: str
    optimizer: Optimizer | None = None
    checkpointing: Checkpointing | None = None
    objective: Objective | None = None


IMPOSSIBLE: Final = (
    *(
        Impossible(
            method=Method.QLORA,
            strategy=strategy,
            accelerator=None,
            why=f"{name} keeps the 4-bit weights whole on every GPU, which is DDP with more communication",
            remedy="use resources.strategy: ddp or fsdp",
        )
        for strategy, name in ((Strategy.ZERO1, "ZeRO-1"), (Strategy.ZERO2, "ZeRO-2"))
    ),
    Impossible(
        method=Method.PREFIX,
        strategy=None,
        accelerator=None,
        checkpointing=Checkpointing.FULL,
        why="layers that are computed again get the prefix' keys and values twice (peft 0.21, transformers 5.23: sizes do not match)",
        remedy="use resources.gradientCheckpointing: none, or tuning.method: prompt",
    ),
    *(
        Impossible(
            method=method,
            strategy=strategy,
            accelerator=None,
            why="PEFT (0.21) embeds the virtual tokens anew for every checkpoint, which fails where their embedding is sharded",
            remedy="use resources.strategy: ddp",
        )
        for method in sorted(VIRTUAL_TOKEN_METHODS)
        for strategy in SHARDED_STRATEGIES
    ),
    *(
        Impossible(
            method=method,
            strategy=Strategy.ZERO3,
            accelerator=None,
            why="ZeRO-3 splits the weights while they are loaded, before the trained ones are chosen and widened",
            remedy="use resources.strategy: fsdp",
        )
        for method in sorted(PARTIAL_METHODS)
    ),
    *(
        Impossible(
            method=None,
            strategy=Strategy.FSDP,
            accelerator=None,
            optimizer=optimizer,
            why="bitsandbytes' step (0.50, optimizer_update) is not registered for sharded tensors and ends the run",
            remedy="use training.optimizer: adamw, or resources.strategy: ddp",
        )
        for optimizer in BITSANDBYTES_OPTIMIZERS
    ),
    Impossible(
        method=None,
        strategy=Strategy.FSDP,
        accelerator=None,
        optimizer=Optimizer.ADAFACTOR,
        why="transformers' Adafactor (5.23) adds sharded gradients to moments that are not sharded and ends the run",
        remedy="use training.optimizer: adamw, or resources.strategy: ddp",
    ),
    Impossible(
        method=None,
        strategy=Strategy.FSDP,
        accelerator=None,
        optimizer=Optimizer.MUON,
        why="Muon orthogonalises whole matrices, and a process has a part of each",
        remedy="use training.optimizer: adamw, or resources.strategy: ddp",
    ),
    *(
        Impossible(
            method=None,
            strategy=strategy,
            accelerator=None,
            optimizer=optimizer,
            why="DeepSpeed steps flat pieces of all weights together, and nothing but AdamW is proven with it",
            remedy="use training.optimizer: adamw, or resources.strategy: ddp",
        )
        for optimizer in Optimizer
        if optimizer is not Optimizer.ADAMW
        for strategy in ZERO_STAGES
    ),
)


OBJECTIVE_IMPOSSIBLE: Final = (
    *(
        Impossible(
            method=Method.FULL,
            strategy=strategy,
            accelerator=None,
            why="its frozen reference would be one more whole model on every rank: TRL 1.16 loads it before it shards, and it cannot be asked "
            "beforehand, since the answers it is asked about are mixed anew in every batch",
            remedy="use tuning.method: lora or qlora, whose reference is the model without adapters, or objective: dpo",
            objective=Objective.KTO,
        )
        for strategy in SHARDED_STRATEGIES
    ),
    Impossible(
        method=Method.QLORA,
        strategy=None,
        accelerator=None,
        why="the model's new head starts from random numbers, and bitsandbytes would store them in 4 bits",
        remedy="use tuning.method: lora or full",
        objective=Objective.REWARD,
    ),
    *(
        Impossible(
            method=method,
            strategy=None,
            accelerator=None,
            why="preferences were tried with whole models and low-rank adapters alone",
            remedy="use tuning.method: lora, qlora or full",
            objective=objective,
        )
        for objective in PREFERENCES
        for method in Method
        if method not in (Method.FULL, *LORA_METHODS)
    ),
    *(
        Impossible(
            method=method,
            strategy=None,
            accelerator=None,
            why="classes were tried with whole models, their last layers and LoRA alone",
            remedy="use tuning.method: lora, freeze or full",
            objective=objective,
        )
        for objective in LABELLING
        for method in Method
        if method not in (Method.FULL, Method.FREEZE, Method.LORA)
    ),
    *(
        Impossible(
            method=method,
            strategy=None,
            accelerator=None,
            why="vectors and scores of pairs were tried with whole models and LoRA alone",
            remedy="use tuning.method: lora or full",
            objective=objective,
        )
        for objective in PAIRING
        for method in Method
        if method not in (Method.FULL, Method.LORA)
    ),
    *(
        Impossible(
            method=None,
            strategy=strategy,
            accelerator=None,
            why="its loss compares all rows of a global batch: their vectors are computed first, and a part of the batch again in each of several "
            "backward passes of one step, which was tried where every process has the whole model",
            remedy="use resources.strategy: single or ddp",
            objective=Objective.EMBEDDING,
        )
        for strategy in SHARDED_STRATEGIES
    ),
    *(
        Impossible(
            method=method,
            strategy=None,
            accelerator=None,
            why="generated answers were learned from with whole models and LoRA alone",
            remedy="use tuning.method: lora or full",
            objective=objective,
        )
        for objective in ONLINE
        for method in Method
        if method not in (Method.FULL, Method.LORA)
    ),
    *(
        Impossible(
            method=method,
            strategy=None,
            accelerator=None,
            why="teachers were learned from with whole models and LoRA alone",
            remedy="use tuning.method: lora or full",
            objective=Objective.DISTILL,
        )
        for method in Method
        if method not in (Method.FULL, Method.LORA)
    ),
    *(
        Impossible(
            method=None,
            strategy=strategy,
            accelerator=None,
            why="the teacher is whole in every process, beside a student of which a process has a part; the two were tried together where both are "
            "whole",
            remedy="use resources.strategy: single or ddp, or tuning.method: lora, whose student needs little beside the teacher",
            objective=Objective.DISTILL,
        )
        for strategy in SHARDED_STRATEGIES
    ),
)
"""What an objective does not work with, beside what works with none."""


def impossibility(
    method: Method,
    strategy: Strategy,
    accelerator: str,
    optimizer: Optimizer = Optimizer.ADAMW,
    checkpointing: Checkpointing = Checkpointing.NONE,
    table: Iterable[Impossible] = IMPOSSIBLE,
    *,
    objective: Objective = Objective.SFT,
) -> Impossible | None:
    """Return the row that forbids this combination, or None when it works."""
    for row in (*table, *OBJECTIVE_IMPOSSIBLE):
        matches = (
            row.method in (None, method)
            and row.strategy in (None, strategy)
            and row.accelerator in (None, accelerator)
            and row.optimizer in (None, optimizer)
            and row.checkpointing in (None, checkpointing)
            and row.objective in (None, objective)
        )
        if matches:
            return row
    return None
