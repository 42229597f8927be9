"""Chains: a job that starts from another job's result. `model.uri: ftj://NAME` names a job of the same namespace (locally: of the same runs' folder).

The name is resolved to the place of that job's result, and all that follows (inspection, plan, attempt) knows that place alone. So a chain goes on
when the first job is deleted meanwhile, and the result's own URI starts the same training.
"""

from __future__ import annotations

from finetune_operator.api.locations import CHAIN_SCHEME
from finetune_operator.api.spec import FineTuneJobSpec


def source_of(spec: FineTuneJobSpec) -> str | None:
    """Return the name of the job whose result this one starts from; None where `model.uri` is a place."""
    uri = spec.model.uri
    return uri.removeprefix(CHAIN_SCHEME) if uri.startswith(CHAIN_SCHEME) else None


def starting_at(spec: FineTuneJobSpec, uri: str) -> FineTuneJobSpec:
    """Return the spec with that place as `model.uri`."""
    return spec.model_copy(update={"model": spec.model.model_copy(update={"uri": uri})})
