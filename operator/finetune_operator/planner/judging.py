"""The evaluation after the training in a plan: how many rows pass through the model together, and what the first pod holds for it."""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.inspection import InspectionReport
from finetune_operator.api.layouts import Layout
from finetune_operator.api.measures import ENTITY_MEASURES, names_entities
from finetune_operator.api.plan import GIB, PlanError
from finetune_operator.api.reasons import Reason
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.judging import (
    entailment_bytes,
    judging_batch_bytes,
    judging_host_bytes,
    judging_weights,
)
from finetune_operator.memory.runtime import runtime_bytes
from finetune_operator.memory.workload import Workload

LARGEST_BATCH: Final = 32
"""Rows together: more would win little on a GPU, and rows of a batch wait for its longest answer."""
USABLE_SHARE: Final = 0.85
"""Of the memory that is left: the rest is the allocator's, the libraries' and the estimate's."""


ASSUMED_ENTAILMENT_BYTES: Final = 355_000_000 * 4
"""Of a classifier that was not looked at: roberta-large in float32."""


class Judging(NamedTuple):
    """What the plan says of it."""

    batch: int
    """Rows together; 0 where nothing is evaluated."""
    reason: str = ""


def check_judging(spec: FineTuneJobSpec, inspection: InspectionReport | None) -> PlanError | None:
    """Return why rows cannot be evaluated as the spec asks, None when they can."""
    unmeasured = _unmeasured(spec, inspection)
    if unmeasured is not None:
        return PlanError(reason=Reason.INVALID_SPEC, message=f"evaluation.require.{unmeasured}")
    if not spec.evaluation.generates or inspection is None or inspection.dataset.format != "text":
        return None
    return PlanError(
        reason=Reason.INVALID_SPEC,
        message="evaluation.metrics: rows of format text have no answers to compare with; leave perplexity alone, or give "
        f"{spec.data_uri} columns for prompt and answer",
    )


def _unmeasured(spec: FineTuneJobSpec, inspection: InspectionReport | None) -> str | None:
    """Return which required measure these rows do not have, and why; None where they have all."""
    if spec.evaluation.require is None or inspection is None:
        return None
    required, dataset = spec.evaluation.require.given, inspection.dataset
    has_scores = dataset.format == Layout.SCORED_PAIR
    if spec.objective is Objective.EMBEDDING and not has_scores and "spearman" in required:
        return f"spearman: rows of format {dataset.format} have no scores to correlate with; require retrieval_accuracy or loss"
    if spec.objective is Objective.EMBEDDING and has_scores and "retrieval_accuracy" in required:
        return f"retrieval_accuracy: rows of format {dataset.format} are not compared with one another; require spearman or loss"
    entities = next((name for name in ENTITY_MEASURES if name in required), None)
    if entities is not None and not names_entities(dataset.labels):
        return (
            f"{entities}: the classes of {spec.data_uri} ({', '.join(list(dataset.labels)[:5])}, …) are not tags of entities such as B-PER "
            "and I-PER; require accuracy, macro_f1 or loss"
        )
    return None


def entailment_weights_of(spec: FineTuneJobSpec, inspection: InspectionReport | None) -> int:
    """Return the bytes of the model of metric entailment as stored; 0 where the job has none."""
    if spec.evaluation.entailment is None:
        return 0
    return (inspection.entailment_weight_bytes if inspection else 0) or ASSUMED_ENTAILMENT_BYTES


def host_bytes_of(
    spec: FineTuneJobSpec, architecture: Architecture, workload: Workload, entailment_weights: int, gpu_bytes: int
) -> int:
    """Return the host memory that the first pod has to have for it (without libraries on GPU nodes); 0 where nothing is evaluated."""
    if not spec.evaluation.after_training:
        return 0
    return judging_host_bytes(
        architecture,
        workload,
        tokens=workload.sequence_length,
        answer=spec.evaluation.max_new_tokens if spec.evaluation.generates else 0,
        entailment_weights=entailment_weights,
        gpu_bytes=round(USABLE_SHARE * gpu_bytes),
    )


def judging_of(
    spec: FineTuneJobSpec,
    architecture: Architecture,
    workload: Workload,
    capacity_bytes: int,
    devices: int,
    entailment_weights: int = 0,
) -> Judging:
    """Return the largest batch (a power of 2) that fits the first pod, which then has no training in it.

    `capacity_bytes` is of one GPU, or of the pod with accelerator cpu; a model that is too large for one GPU is spread over the `devices` of
    the pod, and where these are too small, too, the rest of it lies in host memory and one row passes at a time.
    """
    if not spec.evaluation.after_training:
        return Judging(0)
    weights = judging_weights(architecture, workload)
    answer = spec.evaluation.max_new_tokens if spec.evaluation.generates else 0
    is_gpu = spec.resources.accelerator == "gpu"
    room = USABLE_SHARE * capacity_bytes * devices - weights - (0 if is_gpu else runtime_bytes(workload))

    def taken(rows: int) -> int:
        return judging_batch_bytes(architecture, workload, rows, workload.sequence_length, answer)

    batch = LARGEST_BATCH
    while batch >= 2 * spec.evaluation.max_rows:
        batch //= 2
    while batch > 1 and taken(batch) > room:
        batch //= 2
    rows = f"up to {spec.evaluation.max_rows} rows after the training, {batch} at a time"
    bytes_ = f"{weights / GIB:.2f} GiB of weights and {taken(batch) / GIB:.2f} GiB beside them"
    if other := entailment_bytes(entailment_weights):
        there = not is_gpu or other <= USABLE_SHARE * capacity_bytes - weights
        bytes_ += f", later {other / GIB:.2f} GiB of the entailment model {'beside the weights' if there else 'in host memory'}"
    if taken(batch) > room and is_gpu:
        return Judging(
            batch, f"evaluation: {rows}: {bytes_} are more than the pod's GPUs have; a part lies in host memory"
        )
    return Judging(batch, f"evaluation: {rows}: {bytes_}, when training's memory is free again")
