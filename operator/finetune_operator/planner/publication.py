"""What the publish pod asks of its node: memory for one copy of the model, and disk for what it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.api.gguf import GGUF_BYTES, gguf_obstacle
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.plan import GIB, Plan, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec

BASE_BYTES: Final = 2 * GIB
"""Imports of the trainer (about 1 GiB), parts of files on their way, and blocks of tensors that are converted; on disk: logs and caches."""
SPARE_SHARE: Final = 0.25
"""Of the model, in memory, beside its one copy: a merge holds one module's product. Measured with 0.4B parameters: 1.03 copies in all."""
_FLOAT_BYTES: Final = 4


def check_formats(spec: FineTuneJobSpec, config: Mapping[str, Any]) -> PlanError | None:
    """Return why a format that the result is wanted in cannot be made of this model, None when all can."""
    obstacle = gguf_obstacle(config) if spec.output.gguf else None
    if obstacle is None:
        return None
    return PlanError(
        reason=Reason.UNSUPPORTED_COMBINATION,
        message=f"output.gguf cannot be made of {spec.model.uri}: {obstacle}. Remove output.gguf, or choose another model.uri",
    )


@dataclass(frozen=True)
class PublicationNeeds:
    """What the pod's container asks for, in bytes."""

    memory_bytes: int
    disk_bytes: int


def publication_needs(spec: FineTuneJobSpec, model: ModelFacts, plan: Plan, *, cached: bool) -> PublicationNeeds:
    """Return memory and disk of the publish pod; with `cached` the base model lies in a cache and not on the pod's disk.

    Also without a merge the base model is loaded: an adapter is tried on it before anybody gets it.
    """
    full = spec.tuning.trains_base
    per_parameter = _FLOAT_BYTES if spec.training.precision == "fp32" else 2
    parameters = model.parameters or plan.total_parameters
    # A report without a count (tests, very old reports) still has the files' size.
    published = parameters * per_parameter or model.weight_bytes
    trained = (parameters if full else plan.trainable_parameters) * _FLOAT_BYTES
    memory = published + int(SPARE_SHARE * published) + (0 if full else trained)
    read = trained + (0 if full or cached else model.weight_bytes)
    written = published if full or spec.output.merge else 0
    written += sum(int(parameters * GGUF_BYTES[kind]) for kind in spec.output.gguf)
    return PublicationNeeds(BASE_BYTES + memory, BASE_BYTES + read + written + (0 if full else trained))
