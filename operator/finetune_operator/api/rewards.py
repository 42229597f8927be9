"""What a generated answer is worth: the rewards of objectives grpo and rloo."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final

from pydantic import Field

from finetune_operator.api.locations import OBJECT_NAME_PATTERN, Location, ObjectName, startable
from finetune_operator.api.model import Rule, SpecModel, text_rule

FUNCTION_PATTERN: Final = "^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
_FUNCTION: Final = "__function__"
"""The field's name in rules: function is a reserved word of CEL, and self.function a thing of unknown length, which no budget holds."""
_ONE_MODULE: Final = "^[A-Za-z0-9_]+:"
"""Keys of a ConfigMap have no slashes, so that it holds modules and no packages."""
DEFAULT_COLUMN: Final = "answer"
MODEL_REWARD: Final = "reward-model"
"""What metrics and reports call a reward that is a model."""

SCORED_LENGTHS: Final = 2
"""A reward model's template and tokenizer may make more tokens of prompt and answer than the trained model's: it sees at most so many times
training.maxLength of them."""


def scored_tokens(micro_batch: int, max_length: int) -> int:
    """Return the tokens, padding included, of the largest batch that a reward model scores at once: a micro-batch's, or one long text's."""
    return max(micro_batch, SCORED_LENGTHS) * max_length


class Verifier(StrEnum):
    """The built-in rewards. Each gives 0 to 1."""

    EXACT_NUMBER = "exact-number"
    NUMERIC_CLOSENESS = "numeric-closeness"
    ANSWER_FORMAT = "answer-format"
    REGEX = "regex"
    JSON_SCHEMA = "json-schema"
    UNIT_TESTS = "unit-tests"


VERIFIER_MEANINGS: Final[Mapping[Verifier, str]] = MappingProxyType(
    {
        Verifier.EXACT_NUMBER: "1 where the answer's number equals that of the row's column, else 0",
        Verifier.NUMERIC_CLOSENESS: "1 minus the relative distance of the answer's number to that of the row's column, 0 at the least",
        Verifier.ANSWER_FORMAT: "1 where the completion ends in one marked final answer: #### and a number",
        Verifier.REGEX: "1 where `pattern` is found in the completion",
        Verifier.JSON_SCHEMA: "1 where the completion is JSON that `schema` accepts",
        Verifier.UNIT_TESTS: "the share of the tests in the row's column that the completion's Python code passes",
    }
)


class RewardModel(SpecModel):
    """A model that gives prompt and answer one number: what `objective: reward` publishes."""

    uri: Location = Field(
        description="A whole sequence classification model with one output and its own tokenizer: hf://, s3://, gs://, az://, or ftj://NAME for the "
        "result of the job NAME of this namespace, which this one waits for."
    )
    revision: str = Field("main", max_length=100, description="Branch, tag or commit of an hf:// model. Default main.")

    rules: ClassVar[tuple[Rule, ...]] = (startable("rewards.model.uri"),)


class Reward(SpecModel):
    """One reward; an answer is worth the weighted sum of all."""

    verifier: Verifier | None = Field(
        None,
        description="A built-in reward: " + "; ".join(f"{name}: {text}" for name, text in VERIFIER_MEANINGS.items()),
    )
    function: str | None = Field(
        None,
        max_length=200,
        description="A Python function by import path, module:name, called with prompts, completions and the rows' columns; it returns a number "
        "for each completion.",
    )
    config_map: ObjectName | None = Field(
        None,
        description="A ConfigMap in the job's namespace with the function's module: for my_rewards:score the key my_rewards.py, and what it imports. "
        "Default: the trainer's image has it.",
    )
    model: RewardModel | None = Field(
        None,
        description="A reward model, whose number for prompt and answer is the reward. It stands whole and frozen in every process.",
    )
    weight: float = Field(1.0, ge=-100, le=100, description="Factor of its value in the sum. Default 1.")
    column: str = Field(
        DEFAULT_COLUMN,
        min_length=1,
        max_length=100,
        description="The row's column with the right answer, or with the unit tests. Default answer.",
    )
    pattern: str | None = Field(
        None, min_length=1, max_length=1000, description="A Python regular expression (verifier regex)."
    )
    json_schema: str | None = Field(
        None, min_length=2, max_length=20000, description="A JSON Schema, as JSON text (verifier json-schema)."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"(has(self.verifier) ? 1 : 0) + (has(self.{_FUNCTION}) ? 1 : 0) + (has(self.model) ? 1 : 0) == 1",
            message="rewards: a reward is a verifier, a function or a model; name one of the three",
            holds=lambda r: [r.verifier, r.function, r.model].count(None) == 2,
        ),
        text_rule(
            _FUNCTION,
            "function",
            FUNCTION_PATTERN,
            "rewards.function: write an import path such as my_rewards:score (module, colon, function)",
        ),
        text_rule(
            "configMap",
            "config_map",
            OBJECT_NAME_PATTERN,
            "rewards.configMap is the name of a ConfigMap in the job's namespace (lower-case letters, digits, - and .)",
        ),
        Rule(
            cel=f"!has(self.configMap) || has(self.{_FUNCTION})",
            message="rewards.configMap has the module of a function; name the function too, or remove it",
            holds=lambda r: r.config_map is None or r.function is not None,
        ),
        Rule(
            cel=f"!has(self.configMap) || !has(self.{_FUNCTION}) || self.{_FUNCTION}.matches('{_ONE_MODULE}')",
            message="rewards.function: a ConfigMap has modules and no packages; write my_rewards:score for its key my_rewards.py",
            holds=lambda r: (
                r.config_map is None or r.function is None or re.search(_ONE_MODULE, r.function) is not None
            ),
        ),
        Rule(
            cel="(has(self.verifier) && self.verifier == 'regex') == has(self.pattern)",
            message="rewards.pattern: verifier regex needs a pattern, and no other reward has one",
            holds=lambda r: (r.verifier is Verifier.REGEX) == (r.pattern is not None),
        ),
        Rule(
            cel="(has(self.verifier) && self.verifier == 'json-schema') == has(self.jsonSchema)",
            message="rewards.jsonSchema: verifier json-schema needs a schema, and no other reward has one",
            holds=lambda r: (r.verifier is Verifier.JSON_SCHEMA) == (r.json_schema is not None),
        ),
    )

    @property
    def name(self) -> str:
        """What it is called; several of a job may be called alike (reward_names)."""
        if self.model is not None:
            return MODEL_REWARD
        return str(self.verifier) if self.verifier is not None else str(self.function).rpartition(":")[2]

    @property
    def problem(self) -> str | None:
        """Why pattern or schema cannot be used (what no API server can check), or None."""
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                return f"rewards.pattern is no regular expression: {error}"
        if self.json_schema is not None:
            try:
                json.loads(self.json_schema)
            except ValueError as error:
                return f"rewards.jsonSchema is not JSON: {error}"
        return None


def reward_names(rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Return how metrics and reports call them: by verifier, function or reward-model, from the second on with a number (regex, regex-2)."""
    names = [reward.name for reward in rewards]
    before = [names[:index].count(name) for index, name in enumerate(names)]
    return tuple(f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True))
