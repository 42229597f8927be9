"""Objectives grpo and rloo: the model answers prompts, and learns from what its answers are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.online import OnlinePolicy
from finetune_operator.api.plan import AttemptFile
from finetune_trainer.arguments import training_arguments
from finetune_trainer.objectives.recipe import EncodedRow, Parts, Recipe, RowEncoder
from finetune_trainer.rendering import Text
from finetune_trainer.rewards.prompts import problem_of
from finetune_trainer.rows import Prompt, RowValue
from finetune_trainer.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from finetune_trainer.job_context import JobContext

RESERVED: Final = frozenset(
    {
        "completion",
        "completions",
        "completion_ids",
        "environments",
        "image",
        "images",
        "log_extra",
        "log_metric",
        "prompts",
        "trainer_state",
    }
)
"""Columns that rewards are not handed: TRL 1.16 has arguments of these names, or takes them for pictures."""


def settings_of(attempt: AttemptFile) -> OnlinePolicy:
    """Return the settings of the job's objective, which the spec's rules ask for."""
    settings = attempt.spec.training.online
    if settings is None:
        raise AssertionError(f"objective {attempt.spec.objective} has settings")
    return settings


class _Online(Recipe):
    schema = pa.schema([("prompt", pa.string()), ("columns", pa.string()), ("tokens", pa.int32())])
    measures: Mapping[str, str] = MappingProxyType(
        {
            "reward": "reward_mean",
            "reward_std": "reward_deviation",
            "frac_reward_zero_std": "reward_ties",
            "kl": "kl",
            "entropy": "entropy",
            "completions/mean_length": "completion_length",
            "completions/clipped_ratio": "completions_cut",
        }
    )

    def encoder(self, attempt: AttemptFile, tokenizer: TokenizerFiles) -> RowEncoder:
        settings = settings_of(attempt)

        def encode(value: RowValue, texts: Sequence[Text]) -> Sequence[EncodedRow]:
            if not isinstance(value, Prompt):
                raise AssertionError("the layouts of online objectives have prompts")
            (text,) = texts
            tokens = len(tokenizer.tokenizer.encode(text.text, add_special_tokens=not text.by_template).ids)
            if problem_of(value, tokens, settings, attempt.plan.max_length) is not None:
                return ()
            prompt = value.prompt if isinstance(value.prompt, str) else [turn.to_dict() for turn in value.prompt]
            columns = {name: each for name, each in value.columns.items() if name not in RESERVED}
            return ({"prompt": json.dumps(prompt), "columns": json.dumps(columns, default=str), "tokens": tokens},)

        return encode

    def lengths(self, rows: pa.Table) -> pa.ChunkedArray:
        return rows.column("tokens")

    def configuration(self, attempt: AttemptFile, staging: Path, *, loads_once: bool) -> Any:
        from trl import GRPOConfig, RLOOConfig

        online = settings_of(attempt)
        kind = GRPOConfig if attempt.spec.objective is Objective.GRPO else RLOOConfig
        return kind(
            **training_arguments(attempt, staging, loads_once=loads_once),
            beta=attempt.spec.training.kl_weight,
            num_generations=online.generations,
            # Answers of a step are generated at its beginning and used in that step alone: nothing of them is left for a checkpoint.
            steps_per_generation=attempt.plan.gradient_accumulation,
            max_completion_length=online.max_completion_length,
            temperature=online.temperature,
            top_p=online.top_p,
            reward_weights=[reward.weight for reward in online.rewards],
            disable_dropout=False,
            remove_unused_columns=False,
            log_completions=False,  # prompts and answers never appear in logs
        )

    def trainer(self, context: JobContext, configuration: Any, parts: Parts) -> Any:
        from finetune_trainer.objectives.online_trainer import GroupTrainer, LeaveOneOutTrainer

        kind = GroupTrainer if context.attempt.spec.objective is Objective.GRPO else LeaveOneOutTrainer
        return kind(context, **parts.arguments(configuration))


RECIPE: Final = _Online()
