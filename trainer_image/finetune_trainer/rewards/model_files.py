"""Reward models as far as their files tell: looked at by the inspection, so that no GPU is taken for one that cannot score answers. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.model_types import ENCODERS
from finetune_operator.api.rewards import RewardModel
from finetune_operator.api.spec import ModelSource
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.lineage import lineage_of_result
from finetune_trainer.model_files import CONFIG_FILE, describe_model, open_model
from finetune_trainer.model_types import BUILT_IN_MODEL_TYPES
from finetune_trainer.rendering import RenderedRow, Unanswerable, answered
from finetune_trainer.rows import Message, Prompt
from finetune_trainer.storage import open_storage
from finetune_trainer.tokenizer_files import TokenizerFiles, read_tokenizer

_CLASS: Final = "ForSequenceClassification"
_ANY_ANSWER: Final = (Message("assistant", "yes"),)


@dataclass(frozen=True)
class InspectedRewardModel:
    """What is known of one."""

    facts: ModelFacts
    tokenizer: TokenizerFiles


def inspect_reward_models(models: Sequence[RewardModel]) -> list[InspectedRewardModel]:
    """Return what the files of reward models tell.

    Raises:
        TrainerFailure: one of them is none: an adapter alone, another head, several outputs, an encoder, code of its own, 4-bit weights.
    """
    return [_inspected(reward_source(model.uri, model.revision)) for model in models]


def reward_source(uri: str, revision: str) -> ModelSource:
    """Return where a reward model is."""
    return ModelSource(uri=uri, revision=revision)


def _inspected(source: ModelSource) -> InspectedRewardModel:
    storage = open_storage(source.uri, revision=source.revision)
    if not storage.exists(CONFIG_FILE) and storage.exists("adapter/adapter_config.json"):
        raise _refused(
            source,
            "is an adapter alone; train the reward model again with output.merge: true, which publishes it whole",
        )
    if storage.exists(CONFIG_FILE):
        _check(source, json.loads(storage.read(CONFIG_FILE)))
    lineage = lineage_of_result(storage)
    if lineage is not None and lineage.objective not in ("", Objective.REWARD):
        raise _refused(
            source,
            f"is the result of objective {lineage.objective}, whose numbers do not judge answers; name one of objective reward",
        )
    tokenizer = read_tokenizer(storage)
    return InspectedRewardModel(describe_model(open_model(source), source, tokenizer, lineage), tokenizer)


def _check(source: ModelSource, config: dict[str, JsonValue]) -> None:
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if not isinstance(architectures, list) or not str((architectures or [""])[0]).endswith(_CLASS):
        raise _refused(
            source,
            f"is no sequence classifier (architectures: {architectures}); name a model that objective reward has trained",
        )
    names = config.get("id2label")
    outputs = len(names) if isinstance(names, dict) else config.get("num_labels", 2)  # transformers' default
    if outputs != 1:
        raise _refused(
            source, f"has {outputs} outputs, and a reward is one number; name a model that objective reward has trained"
        )
    if model_type in ENCODERS:
        raise _refused(
            source,
            f"is an encoder ({model_type}), and prompt and answer are scored as a decoder reads them; name a decoder-only one",
        )
    if model_type not in BUILT_IN_MODEL_TYPES:
        raise _refused(
            source, f"has model_type {model_type}, which transformers brings no code for; name another model"
        )
    if config.get("quantization_config"):
        raise _refused(source, "is quantised, and its memory was not measured; name the 16-bit model")


def _refused(source: ModelSource, why: str) -> TrainerFailure:
    return TrainerFailure(ExitCode.BAD_SPEC, f"rewards.model.uri: {source.uri} {why}")


def rows_it_can_read(rows: Iterable[RenderedRow], models: Sequence[InspectedRewardModel]) -> Iterator[RenderedRow]:
    """Yield the rows, after each prompt has been rendered with an answer as the reward models' own templates do it.

    Raises:
        TrainerFailure: one of them cannot read a prompt.
    """
    for rendered in rows:
        value = rendered.row.value
        if isinstance(value, Prompt):
            for model in models:
                answer = "yes" if isinstance(value.prompt, str) else _ANY_ANSWER
                try:
                    answered(value.prompt, answer, model.tokenizer)
                except Unanswerable as problem:
                    raise TrainerFailure(
                        ExitCode.BAD_DATA,
                        f"{rendered.row.file}, line {rendered.row.line}: rewards.model.uri: {model.facts.uri} cannot read the prompt with an answer: "
                        f"{problem}; leave such rows out, or train the reward model with a template that writes them (model.chatTemplate)",
                    ) from None
        yield rendered
