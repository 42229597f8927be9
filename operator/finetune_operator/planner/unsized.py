"""Models that cannot be sized: what is said of them, wherever they are asked about."""

from __future__ import annotations

from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec


def untraced(error: PlanError, why: str) -> PlanError:
    """Return the error of a model that no table knows with the reason why there is no trace of it either."""
    message = f"{error.message}. It could not be traced on fake tensors either: {why}"
    return error.model_copy(update={"message": message, "needs_trace": False})


def multimodal(spec: FineTuneJobSpec) -> PlanError:
    """The trainer loads the whole model, whose vision part nobody has counted."""
    return PlanError(
        reason=Reason.UNKNOWN_ARCHITECTURE,
        message=f"{spec.model.uri} is multimodal (config.json has a text_config), and only its text part can be sized; "
        "set model.uri to a text-only model",
    )
