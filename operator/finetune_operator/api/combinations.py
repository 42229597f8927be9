"""The table of combinations that do not work (impossible.py) as rules of the spec, so that the API server refuses them too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from finetune_operator.api.compatibility import Checkpointing, Strategy
from finetune_operator.api.impossible import IMPOSSIBLE
from finetune_operator.api.methods import Method, Optimizer
from finetune_operator.api.model import Rule


def forbidden_strategies() -> Iterator[Rule]:
    """Yield a rule per method or optimizer and reason, for the whole spec; rows that name no strategy are not for the API server."""
    rows: dict[tuple[Method | None, Optimizer | None, str, str], list[Strategy]] = defaultdict(list)
    for row in IMPOSSIBLE:
        if row.strategy is not None and row.accelerator is None and (row.method is None) != (row.optimizer is None):
            rows[row.method, row.optimizer, row.why, row.remedy].append(row.strategy)
    for (method, optimizer, why, remedy), strategies in rows.items():
        yield _rule(
            method or optimizer, "tuning.method" if method else "training.optimizer", strategies, f"{why}; {remedy}"
        )


def forbidden_checkpointing() -> Iterator[Rule]:
    """Yield a rule per method that does not go with gradient checkpointing."""
    for row in IMPOSSIBLE:
        if row.checkpointing is not None and row.method is not None:
            yield _checkpointing_rule(row.method, row.checkpointing, f"{row.why}; {row.remedy}")


def _checkpointing_rule(method: Method, checkpointing: Checkpointing, text: str) -> Rule:
    return Rule(
        cel=f"self.tuning.method != '{method}' || self.resources.gradientCheckpointing != '{checkpointing}'",
        message=f"resources.gradientCheckpointing: {checkpointing} cannot be had with tuning.method: {method}: {text}",
        holds=lambda spec: spec.tuning.method is not method or spec.resources.gradient_checkpointing != checkpointing,
    )


def _rule(value: Method | Optimizer | None, field: str, strategies: list[Strategy], text: str) -> Rule:
    part, _, name = field.partition(".")

    def holds(spec: Any) -> bool:
        return getattr(getattr(spec, part), name) is not value or spec.resources.strategy not in strategies

    quoted = ", ".join(f"'{each}'" for each in strategies)
    return Rule(
        cel=f"self.{field} != '{value}' || !(self.resources.strategy in [{quoted}])",
        message=f"resources.strategy: {' and '.join(strategies)} cannot be had with {field}: {value}: {text}",
        holds=holds,
    )
