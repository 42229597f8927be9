"""Which prompts can be learned from: the same answer in inspect and in train. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_operator.api.online import OnlinePolicy
from finetune_operator.api.rewards import Reward, Verifier
from finetune_trainer.rewards.numbers import number_of
from finetune_trainer.rows import Prompt


def problem_of(value: Prompt, tokens: int, policy: OnlinePolicy, max_length: int) -> str | None:
    """Return why a prompt of so many tokens is left out, None for one that is answered."""
    if value.tools is not None:
        return "it has tools, which generation does not hand to the chat template (TRL 1.16); remove them, or write them into the prompt"
    if tokens > max_length - policy.max_completion_length:
        return (
            f"the prompt leaves no room for an answer of {policy.max_completion_length} tokens (maxCompletionLength) within "
            f"training.maxLength ({max_length})"
        )
    if not any(_has_opinion(reward, value.columns) for reward in policy.rewards):
        columns = sorted({reward.column for reward in policy.rewards})
        return f"no reward can judge its answers: column {' and '.join(columns)} has nothing to compare them with"
    return None


def _has_opinion(reward: Reward, columns: Mapping[str, object]) -> bool:
    match reward.verifier:
        case Verifier.EXACT_NUMBER | Verifier.NUMERIC_CLOSENESS:
            return number_of(columns.get(reward.column)) is not None
        case Verifier.UNIT_TESTS:
            return bool(columns.get(reward.column))
        case _:
            return True
