"""From the spec's rewards to the functions that TRL calls: a batch of prompts, completions and columns in, a number for each completion out."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import jsonschema

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.rewards import Reward, Verifier, reward_names
from finetune_trainer.failures import TrainerFailure, calls_of
from finetune_trainer.rewards.numbers import answer_format, exact_number, number_of, numeric_closeness
from finetune_trainer.rewards.unit_tests import passed_share

RewardFunction = Callable[..., list[float | None]]
"""What TRL calls: prompts=, completions=, and every column of the rows, each a list with a value per completion."""


_NO_FOLDERS: Final[Mapping[str, Path]] = MappingProxyType({})


class Scorer(Protocol):
    """A reward model that is loaded."""

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        """Return a number for each prompt with its answer."""
        ...


def reward_functions(
    rewards: Sequence[Reward], models: Iterable[Scorer] = (), folders: Mapping[str, Path] = _NO_FOLDERS
) -> list[RewardFunction]:
    """Return one function for each reward, in order; `models` are those of the rewards that are one, in order.

    `folders` have the modules of ConfigMaps, by its name.

    Raises:
        TrainerFailure: a function cannot be imported, or a pattern or schema cannot be used.
    """
    loaded = iter(models)
    return [
        _function(reward, name, folders) if reward.model is None else _scored(next(loaded), name)
        for reward, name in zip(rewards, reward_names(rewards), strict=True)
    ]


def _scored(model: Scorer, name: str) -> RewardFunction:
    def call(*, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [*model.score(prompts, completions)]

    call.__name__ = name
    return call


def _function(reward: Reward, name: str, folders: Mapping[str, Path]) -> RewardFunction:
    if reward.problem is not None:
        raise TrainerFailure(ExitCode.BAD_SPEC, reward.problem)
    if reward.function is not None:
        folder = folders[reward.config_map] if reward.config_map is not None else None
        return _checked(_imported(reward.function, folder), name)
    score = _verifier(reward)

    def call(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        right = columns.get(reward.column) or [None] * len(completions)
        return [score(text_of(completion), value) for completion, value in zip(completions, right, strict=True)]

    call.__name__ = name
    return call


def text_of(completion: object) -> str:
    """Return a completion's text: TRL hands on a list of messages where the prompt was one."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence):
        return "\n".join(str(turn.get("content") or "") for turn in completion if isinstance(turn, Mapping))
    raise TypeError(f"a completion is a text or a list of messages, not {type(completion).__name__}")


def _verifier(reward: Reward) -> Callable[[str, object], float | None]:
    match reward.verifier:
        case Verifier.EXACT_NUMBER:
            return lambda text, value: None if (right := number_of(value)) is None else exact_number(text, right)
        case Verifier.NUMERIC_CLOSENESS:
            return lambda text, value: None if (right := number_of(value)) is None else numeric_closeness(text, right)
        case Verifier.ANSWER_FORMAT:
            return lambda text, _: answer_format(text)
        case Verifier.REGEX:
            pattern = re.compile(str(reward.pattern))
            return lambda text, _: float(pattern.search(text) is not None)
        case Verifier.JSON_SCHEMA:
            schema = json.loads(str(reward.json_schema))
            validator = jsonschema.validators.validator_for(schema)(schema)
            return lambda text, _: _accepted(text, validator)
        case Verifier.UNIT_TESTS:
            return lambda text, value: passed_share(text, _tests(value))
        case None:
            raise AssertionError("a reward without verifier has a function or a model")


def _accepted(text: str, validator: Any) -> float:
    try:
        return float(validator.is_valid(json.loads(text)))
    except (ValueError, RecursionError):
        return 0.0


def _tests(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(test) for test in value] if isinstance(value, list | tuple) else []


def _imported(path: str, folder: Path | None) -> Callable[..., Any]:
    """Return the function, from a module of `folder` where there is one."""
    name, _, attribute = path.partition(":")
    if folder is not None and str(folder) not in sys.path:
        # Last: before the others, a key such as random.py would be what every library imports.
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
        found = getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        remedy = (
            "the trainer's image has not what it imports, or calls it otherwise"
            if folder
            else "put its module into the image, into a ConfigMap (rewards.configMap), or into a folder that PYTHONPATH names (pod.env)"
        )
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"rewards.function {path} cannot be imported: {error}; {remedy}"
        ) from error
    except Exception as error:
        print(calls_of(error))
        raise TrainerFailure(
            ExitCode.BAD_SPEC, f"rewards.function {path}: its module raised {type(error).__name__} when it was imported"
        ) from error
    if folder is not None and Path(str(module.__file__)).parent != folder:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"rewards.function {path}: the trainer's image has a module {name} of its own, which Python finds instead; rename the ConfigMap's key",
        )
    if not callable(found):
        raise TrainerFailure(ExitCode.BAD_SPEC, f"rewards.function {path} is no function")
    function: Callable[..., Any] = found
    return function


def _checked(function: Callable[..., Any], name: str) -> RewardFunction:
    def call(**batch: Any) -> list[float | None]:
        expected = len(batch["completions"])
        try:
            values = list(function(**batch))
        except Exception as error:
            print(calls_of(error))  # without its text, which may quote an answer
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"rewards.function {name} raised {type(error).__name__}; mend it, or let it return None for answers that it cannot judge",
            ) from error
        if len(values) != expected:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"rewards.function {name} returned {len(values)} values for {expected} completions; return one number (or None) for each",
            )
        wrong = next((value for value in values if value is not None and not _is_number(value)), None)
        if wrong is not None:
            raise TrainerFailure(
                ExitCode.BAD_SPEC,
                f"rewards.function {name} returned a {type(wrong).__name__} that is no finite number; return finite numbers, or None for no opinion",
            )
        return [None if value is None else float(value) for value in values]

    call.__name__ = name
    return call


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
