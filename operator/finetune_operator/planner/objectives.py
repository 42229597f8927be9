"""Whether a model can be trained for an objective, and how long its sequences can be."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.compatibility import ENCODING, Objective
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.layouts import listed
from finetune_operator.api.model_types import NO_HEAD
from finetune_operator.api.plan import PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture, Head
from finetune_operator.memory.blocks import Positions

ASSUMED_LABELS: Final = 2
"""Classes where nothing was inspected; each costs a vector of the hidden size."""
POSITIONS_BEFORE_TEXT: Final = 2
"""RoBERTa and its kind number tokens from padding_idx + 1 (transformers 5.23, create_position_ids_from_input_ids)."""
_OUTPUTS: Final = {
    Objective.REWARD: "a head of one number",
    Objective.CLASSIFICATION: "a head of classes",
    Objective.TOKEN_CLASSIFICATION: "a head of classes for tokens",
    Objective.EMBEDDING: "a model without a head",
    Objective.RERANKER: "a head of one number",
}
_TABLES: Final = frozenset({Positions.ABSOLUTE, Positions.BUCKETS, Positions.DISENTANGLED})
"""How encoders with a table of positions learn where a token stands (MPNet and DeBERTa have one beside their biases)."""
_NUMBERED_AFTER_PADDING: Final = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta"})


def outputs_of(spec: FineTuneJobSpec, inspection: InspectionReport | None) -> int:
    """Return how many numbers a head of classes gives, or one of scores."""
    if spec.objective is Objective.RERANKER:
        return 1
    return len(inspection.dataset.labels) if inspection is not None else ASSUMED_LABELS


def check_objective(spec: FineTuneJobSpec, architecture: Architecture) -> PlanError | None:
    """Return why the trainer cannot start the job with this model, although its memory is known."""
    model = f"{spec.model.uri} ({architecture.model_type})"
    if architecture.model_type in NO_HEAD.get(spec.objective, ()):
        return PlanError(
            reason=Reason.UNSUPPORTED_COMBINATION,
            message=f"objective: {spec.objective} needs {_OUTPUTS[spec.objective]}, and transformers has none for {model}; "
            f"set model.uri to {'an encoder, such as ModernBERT, or to ' if spec.objective in ENCODING else ''}a Llama, Qwen or Mistral",
        )
    if architecture.head is Head.MASKED_LM:
        # transformers would load it as a causal language model; reward models were tried with decoders alone.
        return PlanError(
            reason=Reason.UNSUPPORTED_COMBINATION,
            message=f"objective: {spec.objective} is for models that write the next token, and {model} is an encoder; set model.uri to a "
            f"decoder-only model, or objective to {listed(ENCODING)}. finetune estimate tells its memory all the same",
        )
    return None


def length_limit(spec: FineTuneJobSpec, architecture: Architecture) -> int:
    """Return the tokens at which rows are cut: training.maxLength, or as many as the model has learned positions for, if those are fewer."""
    wanted = spec.training.max_length
    positions = architecture.blocks[0].attention.positions
    if spec.objective not in ENCODING or positions not in _TABLES or not architecture.max_positions:
        return wanted
    before = POSITIONS_BEFORE_TEXT if architecture.model_type in _NUMBERED_AFTER_PADDING else 0
    return min(wanted, architecture.max_positions - before)
