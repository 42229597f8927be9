"""Chains: a job that uses another job's result, as its model, as a reward model or as a teacher.

`ftj://NAME` names a job of the same namespace (locally: of the same runs' folder). The name is resolved to the place of that job's result, and all
that follows (inspection, plan, attempt) knows that place alone. So a chain goes on when the other job is deleted meanwhile, and the result's own
URI starts the same training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from finetune_operator.api.locations import CHAIN_SCHEME
from finetune_operator.api.online import OnlinePolicy
from finetune_operator.api.spec import FineTuneJobSpec

MODEL_FIELD: Final = "model.uri"
_ONLINE: Final = ("grpo", "rloo")


def model_fields(spec: FineTuneJobSpec) -> tuple[tuple[str, str], ...]:
    """Return every field that may name a job, with its value, always in one order: the model, the reward models, the teacher."""
    training = spec.training
    rewards = [model.uri for policy in (training.grpo, training.rloo) if policy for model in policy.reward_models]
    teacher = [training.distill.teacher.uri] if training.distill else []
    return (
        (MODEL_FIELD, spec.model.uri),
        *(("rewards.model.uri", uri) for uri in rewards),
        *(("training.distill.teacher.uri", uri) for uri in teacher),
    )


def named_job(uri: str) -> str | None:
    """Return the name of the job whose result is meant; None where the URI is a place."""
    return uri.removeprefix(CHAIN_SCHEME) if uri.startswith(CHAIN_SCHEME) else None


def named_jobs(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the jobs that a FineTuneJob's body names; it may be of any shape that the CRD of another version allows."""
    spec = _mapping(body.get("spec"))
    training = _mapping(spec.get("training"))
    rewards = [_mapping(training.get(objective)).get("rewards") for objective in _ONLINE]
    models = [
        spec.get("model"),
        *(_mapping(reward).get("model") for some in rewards if isinstance(some, list) for reward in some),
        _mapping(training.get("distill")).get("teacher"),
    ]
    for model in models:
        uri = _mapping(model).get("uri")
        if isinstance(uri, str) and (name := named_job(uri)) is not None:
            yield name


def starting_at(spec: FineTuneJobSpec, places: Mapping[str, str]) -> FineTuneJobSpec:
    """Return the spec with the place of each job's result instead of its name."""
    return with_models_at(spec, lambda uri: places.get(named_job(uri) or "", uri))


def with_models_at(spec: FineTuneJobSpec, placed: Callable[[str], str]) -> FineTuneJobSpec:
    """Return the spec with what `placed` makes of the URI of each of `model_fields`."""

    def policy(settings: OnlinePolicy) -> OnlinePolicy:
        rewards = [
            reward.model_copy(update={"model": reward.model.model_copy(update={"uri": placed(reward.model.uri)})})
            if reward.model
            else reward
            for reward in settings.rewards
        ]
        return settings.model_copy(update={"rewards": rewards})

    training, changed = spec.training, dict[str, Any]()
    for objective in _ONLINE:
        if (settings := getattr(training, objective)) is not None:
            changed[objective] = policy(settings)
    if (distill := training.distill) is not None:
        teacher = distill.teacher.model_copy(update={"uri": placed(distill.teacher.uri)})
        changed["distill"] = distill.model_copy(update={"teacher": teacher})
    model = spec.model.model_copy(update={"uri": placed(spec.model.uri)})
    return spec.model_copy(update={"model": model, "training": training.model_copy(update=changed)})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
