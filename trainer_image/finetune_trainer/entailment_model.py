"""The classifier of metric entailment, as far as its config tells: looked at by the inspection, so that no GPU is taken for one that cannot serve."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.evaluators import Entailment
from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.spec import ModelSource
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_files import open_model


def entailment_source(entailment: Entailment) -> ModelSource:
    """Return where the model is."""
    return ModelSource(uri=entailment.uri, revision=entailment.revision)


def entailment_class(config: dict[str, Any]) -> int | None:
    """Return the number of the class that says that a text follows, None where the config names none, or several."""
    names = {int(number): str(name).lower() for number, name in dict(config.get("id2label") or {}).items()}
    found = [number for number, name in names.items() if name.startswith("entail")]
    return found[0] if len(found) == 1 else None


def inspect_entailment_model(entailment: Entailment) -> int:
    """Return the bytes of the model's weights as they are stored, which the plan counts.

    Raises:
        TrainerFailure: It has no such class.
    """
    folder = open_model(entailment_source(entailment))
    if entailment_class(folder.config) is None:
        raise TrainerFailure(
            ExitCode.BAD_SPEC,
            f"evaluation.entailment.uri: {entailment.uri} has no class entailment (id2label in its config.json); name a model that was trained on "
            "natural language inference",
        )
    return sum(file.size for file in folder.weights)
