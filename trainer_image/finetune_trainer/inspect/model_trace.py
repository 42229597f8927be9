"""The oracle's numbers of a model in the inspection's report, or why there are none."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from pydantic import JsonValue

from finetune_operator.api.architecture_trace import why_not_traced
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.spec import ModelSource
from finetune_trainer.failures import calls_of
from finetune_trainer.oracle.architecture import trace_architecture

logger = logging.getLogger(__name__)


def with_trace(facts: ModelFacts, config: Mapping[str, JsonValue], source: ModelSource) -> ModelFacts:
    """Return the facts with the trace of the model that the whole `config` describes; what prevents one is a fact as well."""
    if (refusal := why_not_traced(config, trusts_code=source.trust_remote_code)) is not None:
        return facts.model_copy(update={"trace_error": refusal})
    started = time.monotonic()
    try:
        trace = trace_architecture(config)
    except Exception as error:
        # Any model's code may raise anything on shapes alone; the same shapes will again.
        logger.warning("the model cannot be traced\n%s", calls_of(error))
        return facts.model_copy(update={"trace_error": said_of(error)})
    logger.info("model %s traced in %.0f s", source.uri, time.monotonic() - started)
    return facts.model_copy(update={"trace": trace})


def said_of(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
