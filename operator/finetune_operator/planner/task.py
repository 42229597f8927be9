"""What is to be planned, as the search, its explanation and its remedies all see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune_operator.api.history import EMPTY_HISTORY, RunKind
from finetune_operator.api.inspection import ResumePoint, TokenHistogram
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.memory.architecture import Architecture
from finetune_operator.memory.kinds import Teacher
from finetune_operator.planner.candidates import Split
from finetune_operator.planner.history import Corrections, corrections_of, kind_of
from finetune_operator.planner.limits import NO_LIMITS, Limits
from finetune_operator.planner.price_list import EMPTY_PRICE_LIST, PriceList


@dataclass(frozen=True)
class Task:
    """What is to be planned: the job and what is known of its model."""

    spec: FineTuneJobSpec
    architecture: Architecture
    sequence_length: int
    weight_bytes: int
    """Of all models that a pod downloads."""
    corrections: Corrections = field(default_factory=lambda: corrections_of(EMPTY_HISTORY))
    """What history says of the formulas."""
    limits: Limits = NO_LIMITS
    prices: PriceList = EMPTY_PRICE_LIST
    lengths: TokenHistogram | None = None
    """Of the data's rows; None where it was not inspected, or where they are packed and all sequences are about equally long."""
    may_offload: bool = False
    """Nothing fits otherwise; where the user asks for offload, this says nothing."""
    packed: bool = False
    """Rows are joined to sequences of `sequence_length` tokens."""
    passes: float | None = None
    """How often training sees each row; None where the rows are not known."""
    teacher: Teacher | None = None
    """Of objective distill."""
    reward_models: tuple[Architecture, ...] = ()
    """Of the job's rewards."""
    entailment_weights: int = 0
    """Bytes of the model of metric entailment as stored; 0: the job has none."""
    encoded_bytes: int = 0
    """Of the rows on each pod's own disk; 0 where they are not known."""
    resume: ResumePoint | None = None
    """Another job's checkpoint, which the plan must be able to go on from."""

    @property
    def pod_weight_bytes(self) -> int:
        """The models on a pod's own disk: where a cache holds them, that of metric entailment alone."""
        return self.weight_bytes if self.spec.model.cache is None else self.entailment_weights

    def kind(self, split: Split, gpu_product: str | None) -> RunKind:
        """Return what kind of run this is, for history."""
        return kind_of(
            self.spec,
            self.architecture,
            sequence_length=self.sequence_length,
            strategy=split.strategy,
            checkpointing=split.checkpointing,
            offload=split.offload,
            processes=split.processes,
            gpu_product=gpu_product,
        )
