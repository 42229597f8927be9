"""What a user writes: the spec of a FineTuneJob.

A field exists only when the whole product obeys it. Field descriptions become the CRD's (`kubectl explain ftj.spec`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from finetune_operator.api.combinations import forbidden_checkpointing, forbidden_strategies
from finetune_operator.api.compatibility import OBJECTIVE_MEANINGS, OBJECTIVES_NOT_OFFERED, Objective
from finetune_operator.api.datasets import DATASET_RULES, EVALUATES_CEL, MOST_DATASETS, WeightedDataset, formats_allowed
from finetune_operator.api.embedding import Embedding
from finetune_operator.api.evaluation import Evaluation, EvaluationSource, Split
from finetune_operator.api.inputs import FORMATS, Cache, Columns, Dataset, Filters, ModelSource
from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS, READ_TOGETHER, Layout, listed
from finetune_operator.api.measures import HELD_OUT_MEASURES
from finetune_operator.api.methods import VIRTUAL_TOKEN_METHODS, Method
from finetune_operator.api.model import Rule, SpecModel
from finetune_operator.api.objective_rules import OBJECTIVE_RULES
from finetune_operator.api.operation import Checkpoint, Output, Run
from finetune_operator.api.pods import Credentials, EnvironmentVariable, Pod, Scheduling, SecretReference, Toleration
from finetune_operator.api.preference import Dpo, Kto, Orpo, Reward
from finetune_operator.api.requirement_rules import REQUIREMENT_RULES
from finetune_operator.api.resources import Resources
from finetune_operator.api.tracking import Tracking
from finetune_operator.api.trainer import Trainer
from finetune_operator.api.training import DEFAULT_EPOCHS, DEFAULT_LEARNING_RATES, LEARNING_RATE_SHARES, Training
from finetune_operator.api.tuning import Lora, Quantization, Tuning

__all__ = [
    "DEFAULT_EPOCHS",
    "DEFAULT_LEARNING_RATES",
    "IMMUTABLE_AFTER_START",
    "Cache",
    "Checkpoint",
    "Columns",
    "Credentials",
    "Dataset",
    "EnvironmentVariable",
    "Evaluation",
    "EvaluationSource",
    "Filters",
    "FineTuneJobSpec",
    "Lora",
    "ModelSource",
    "Output",
    "Pod",
    "Quantization",
    "Resources",
    "Run",
    "Scheduling",
    "SecretReference",
    "Split",
    "Toleration",
    "Trainer",
    "Training",
    "Tuning",
    "WeightedDataset",
]


def _learns_from(objective: Objective) -> Rule | None:
    """Return the rule that the named format is one that the objective learns from; None where that holds of all."""
    layouts = OBJECTIVE_LAYOUTS[objective]
    if set(FORMATS) <= set(layouts):
        return None
    allowed = ", ".join(f"'{name}'" for name in ("auto", *layouts))
    return Rule(
        cel=f"self.objective != '{objective}' || {formats_allowed(allowed)}",
        message=f"dataset.format: objective {objective} learns from format {listed(layouts)}; set one of them, or auto",
        holds=lambda s: s.objective is not objective or all(d.format in ("auto", *layouts) for d in s.all_datasets),
    )


class FineTuneJobSpec(SpecModel):
    """What to train, on what, how, and where the result goes; everything else is planned."""

    objective: Objective = Field(
        Objective.SFT,
        description=f"What is optimised: {'; '.join(f'{name}, {meaning}' for name, meaning in OBJECTIVE_MEANINGS.items())}. Default sft. "
        f"{' '.join(f'{name} is not offered: {why}.' for name, why in OBJECTIVES_NOT_OFFERED.items())}",
    )
    model: ModelSource = Field(description="The model to start from.")
    dataset: Dataset | None = Field(None, description="The rows to learn from. Exactly one of dataset and datasets.")
    datasets: list[WeightedDataset] | None = Field(
        None,
        min_length=1,
        max_length=MOST_DATASETS,
        description="The rows to learn from, of several data sets: each is read by settings of its own and has a weight.",
    )
    tuning: Tuning = Field(default_factory=Tuning, description="Which parameters are trained.")
    training: Training = Field(default_factory=Training, description="How the training goes.")
    resources: Resources = Field(
        default_factory=Resources, description="What the job may use; what is left out is planned."
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How the model is judged.")
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="When and where the state of the training is saved."
    )
    output: Output = Field(description="Where the result goes.")
    run: Run = Field(default_factory=Run, description="How long and how often the job may run.")
    scheduling: Scheduling = Field(default_factory=Scheduling, description="How the cluster schedules the pods.")
    credentials: Credentials = Field(default_factory=Credentials, description="Secrets for model, data and output.")
    tracking: Tracking = Field(
        default_factory=Tracking, description="Experiment trackers beside TensorBoard, whose files every job has."
    )
    trainer: Trainer | None = Field(
        None,
        description="A training script of your own, in an image of your own, under the same plan, checkpoints and recovery. Default: the operator's "
        "trainer.",
    )
    pod: Pod = Field(default_factory=Pod, description="What is added to every pod of the job.")

    rules: ClassVar[tuple[Rule, ...]] = (
        *forbidden_strategies(),
        *forbidden_checkpointing(),
        Rule(
            cel="!(self.tuning.method in ['prefix', 'prompt']) || !has(self.output.gguf) || self.output.gguf.size() == 0",
            message="output.gguf: virtual tokens of tuning.method: prompt or prefix cannot be merged into a model; remove output.gguf",
            holds=lambda s: s.tuning.method not in VIRTUAL_TOKEN_METHODS or not s.output.gguf,
        ),
        Rule(
            cel="!(self.tuning.method in ['prefix', 'prompt']) || self.training.packing != 'best-fit'",
            message="training.packing: packed rows would share the virtual tokens of tuning.method: prompt or prefix; set packing: none",
            holds=lambda s: s.tuning.method not in VIRTUAL_TOKEN_METHODS or s.training.packing != "best-fit",
        ),
        Rule(
            cel="self.tuning.method != 'qlora' || self.resources.offload in ['auto', 'none']",
            message="resources.offload: 4-bit weights of tuning.method: qlora are not offloaded; set offload: none, or use method: lora",
            holds=lambda s: s.tuning.method is not Method.QLORA or s.resources.offload in ("auto", "none"),
        ),
        Rule(
            cel="self.resources.offload != 'nvme' || self.tuning.method == 'full'",
            message="resources.offload: nvme is for tuning.method: full, whose optimizer states fill disks; those of other methods are small: use "
            "offload: auto",
            holds=lambda s: s.resources.offload != "nvme" or s.tuning.method is Method.FULL,
        ),
        Rule(
            cel="self.tuning.method != 'qlora' || self.training.precision == 'bf16'",
            message="training.precision: tuning.method: qlora computes in bf16; set precision: bf16 or use method: lora",
            holds=lambda s: s.tuning.method is not Method.QLORA or s.training.precision == "bf16",
        ),
        Rule(
            cel=f"!has(self.evaluation.every) || {EVALUATES_CEL}",
            message="evaluation.every: there are no rows to evaluate on; set dataset.split or dataset.evaluation, or remove it",
            holds=lambda s: s.evaluation.every is None or s.evaluates,
        ),
        Rule(
            cel=f"!has(self.evaluation.metrics) || self.evaluation.metrics.size() == 0 || {EVALUATES_CEL}",
            message="evaluation.metrics: there are no rows to evaluate on; set dataset.split or dataset.evaluation, or remove it",
            holds=lambda s: not s.evaluation.metrics or s.evaluates,
        ),
        Rule(
            cel=f"!has(self.training.earlyStopping) || {EVALUATES_CEL}",
            message="training.earlyStopping: there are no rows to evaluate on; set dataset.split or dataset.evaluation, or remove it",
            holds=lambda s: s.training.early_stopping is None or s.evaluates,
        ),
        Rule(
            cel="!has(self.trainer) || !(has(self.output.gguf) && self.output.gguf.size() > 0 || has(self.output.oci) || has(self.output.hub))",
            message="output: gguf, oci and hub are for what the operator's trainer makes; remove them, or remove trainer",
            holds=lambda s: s.trainer is None or not (s.output.gguf or s.output.oci or s.output.hub),
        ),
        Rule(
            cel="!has(self.trainer) || !(has(self.tracking.wandb) || has(self.tracking.mlflow) || has(self.tracking.comet))",
            message="tracking: the operator's trainer tells the trackers; remove it and let the script do so, or remove trainer",
            holds=lambda s: s.trainer is None or s.tracking == Tracking(),
        ),
        Rule(
            cel="!has(self.trainer) || !has(self.evaluation.metrics) || self.evaluation.metrics.size() == 0",
            message="evaluation.metrics: they are measured of what the operator's trainer makes; remove them, or remove trainer",
            holds=lambda s: s.trainer is None or not s.evaluation.metrics,
        ),
        Rule(
            cel="!has(self.trainer) || !has(self.checkpoint.resumeFrom)",
            message="checkpoint.resumeFrom: a script of your own cannot be told to go on from another job's; remove it, or remove trainer",
            holds=lambda s: s.trainer is None or s.checkpoint.resume_from is None,
        ),
        *DATASET_RULES,
        *filter(None, map(_learns_from, Objective)),
        *OBJECTIVE_RULES,
        *REQUIREMENT_RULES,
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _is_offered(cls, value: Any) -> Any:
        """Tell why an objective that people look for does not exist; the API server can only name those that do."""
        if isinstance(value, str) and value in OBJECTIVES_NOT_OFFERED:
            raise PydanticCustomError("not_offered", f"{value} is not offered: {OBJECTIVES_NOT_OFFERED[value]}")
        return value

    @property
    def all_datasets(self) -> tuple[WeightedDataset, ...]:
        """What is learned from, in order: `datasets`, or `dataset` as the only one."""
        if self.datasets is not None:
            return tuple(self.datasets)
        return () if self.dataset is None else (WeightedDataset.of(self.dataset),)

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return any(dataset.evaluates for dataset in self.all_datasets)

    @property
    def held_out_measures(self) -> tuple[str, ...]:
        """The numbers of the last step's evaluation that the finished model is judged by; none where answers are judged, or nothing is."""
        return HELD_OUT_MEASURES.get(self.objective, ()) if self.evaluates and self.trainer is None else ()

    @property
    def is_judged(self) -> bool:
        """Whether numbers of the finished model are told when the training is over."""
        return self.evaluation.after_training or bool(self.held_out_measures)

    @property
    def compares_meanings(self) -> bool:
        """Whether the inspection needs torch, to compare what rows mean."""
        return any(dataset.filters.semantic is not None for dataset in self.all_datasets)

    @property
    def judges_rows(self) -> bool:
        """Whether the inspection asks a language model about rows."""
        return any(dataset.filters.judge is not None for dataset in self.all_datasets)

    @property
    def data_uri(self) -> str:
        """Where the data is, in one line."""
        return ", ".join(dataset.uri for dataset in self.all_datasets)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that rows of this objective can have."""
        return OBJECTIVE_LAYOUTS[self.objective]

    @property
    def reads_together(self) -> bool:
        """Whether the two texts of a pair are one sequence."""
        return self.objective in READ_TOGETHER

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, from the spec or by method and objective."""
        if self.training.learning_rate is not None:
            return self.training.learning_rate
        return DEFAULT_LEARNING_RATES[self.tuning.method] * LEARNING_RATE_SHARES[self.objective]

    @property
    def dpo(self) -> Dpo:
        """The settings of objective dpo, with defaults where the spec has none."""
        return self.training.dpo or Dpo()

    @property
    def orpo(self) -> Orpo:
        """The same of objective orpo."""
        return self.training.orpo or Orpo()

    @property
    def kto(self) -> Kto:
        """The same of objective kto."""
        return self.training.kto or Kto()

    @property
    def reward(self) -> Reward:
        """The same of objective reward."""
        return self.training.reward or Reward()

    @property
    def embedding(self) -> Embedding:
        """The same of objective embedding."""
        return self.training.embedding or Embedding()


IMMUTABLE_AFTER_START: Final = (
    "objective",
    "model",
    "dataset",
    "datasets",
    "tuning",
    "training",
    "resources",
    "evaluation",
    "checkpoint",
    "output",
    "credentials",
    "trainer",
)
"""Parts of the spec that cannot change once `status.startTime` is set; run, scheduling, tracking and pod may: they apply from the next attempt on."""
