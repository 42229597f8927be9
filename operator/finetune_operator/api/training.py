"""How a job learns: how long, how fast, in which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from finetune_operator.api.compatibility import PRECISIONS_NOT_OFFERED, Objective
from finetune_operator.api.distillation import Distill
from finetune_operator.api.embedding import Embedding
from finetune_operator.api.evaluation import EarlyStopping
from finetune_operator.api.methods import BASE_METHODS, LORA_METHODS, VIRTUAL_TOKEN_METHODS, Method, Optimizer
from finetune_operator.api.model import Rule, SpecModel
from finetune_operator.api.online import KL_WEIGHTS, OnlinePolicy
from finetune_operator.api.preference import Dpo, Kto, Orpo, Reward

DEFAULT_EPOCHS: Final = 3.0
DEFAULT_LEARNING_RATES: Final[Mapping[Method, float]] = MappingProxyType(
    {
        **dict.fromkeys(BASE_METHODS, 1e-5),
        **dict.fromkeys(LORA_METHODS, 2e-4),
        Method.IA3: 5e-3,
        **dict.fromkeys(VIRTUAL_TOKEN_METHODS, 3e-2),
    }
)
"""Used where training.learningRate is absent. Adapters take about ten times the rate of full fine-tuning (QLoRA paper, table 9; LoRA paper, D),
factors and virtual tokens more again (3e-3 in the IA3 paper, §3.5; 0.3 with Adafactor in the prompt tuning paper, §3)."""


LEARNING_RATE_SHARES: Final = {
    Objective.SFT: 1.0,
    Objective.PRETRAIN: 1.0,
    Objective.DPO: 0.1,
    Objective.ORPO: 0.5,
    Objective.KTO: 0.1,
    Objective.REWARD: 1.0,
    Objective.CLASSIFICATION: 1.0,
    Objective.TOKEN_CLASSIFICATION: 1.0,
    Objective.EMBEDDING: 1.0,
    Objective.GRPO: 0.1,
    Objective.RLOO: 0.1,
    Objective.RERANKER: 1.0,
    Objective.DISTILL: 1.0,
}
"""Of those, by objective. DPO: TRL 1.16 trains whole models with 1e-6 (DPOConfig), and so KTO. ORPO: 5e-6 to 8e-6
(arXiv 2403.07691, C)."""


class Training(SpecModel):
    """How the training goes."""

    epochs: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="How often every row is seen; 3 where neither epochs nor maxSteps is set. Not with maxSteps.",
    )
    max_steps: int | None = Field(None, ge=1, description="How many optimizer steps are made. Not with epochs.")
    global_batch_size: int = Field(
        64,
        ge=1,
        le=65536,
        description="Sequences per optimizer step, over all GPUs; the plan splits it into micro-batch, accumulation and ranks. Default 64.",
    )
    max_length: int = Field(
        2048,
        ge=8,
        le=1048576,
        description="Tokens of the longest sequence; longer rows are cut (truncation), documents of objective pretrain into pieces. Default 2048.",
    )
    truncation: Literal["right", "left"] = Field(
        "right",
        description="Which end of a row longer than maxLength is cut off: right loses the end of its answer, left the beginning of its prompt. "
        "Default right.",
    )
    packing: Literal["auto", "none", "best-fit"] = Field(
        "auto",
        description="best-fit joins short rows to sequences of up to maxLength tokens that do not see each other; globalBatchSize then counts "
        "sequences. auto does so where it saves much and leaves enough steps; the plan says why. Default auto.",
    )
    group_by_length: bool = Field(
        False,
        description="Rows of about the same length share batches, so that fewer tokens are padding; packing: auto then does not pack. Default false.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Peak learning rate. Default by method: 1e-5 for full, freeze and spectrum, 2e-4 for lora and "
        "qlora, 5e-3 for ia3, 3e-2 for prompt and prefix; of objectives dpo and kto a tenth, of orpo half.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up. Default cosine."
    )
    warmup: float = Field(
        0.03, ge=0, description="Warm-up: a fraction of all steps when below 1, else a number of steps. Default 0.03."
    )
    optimizer: Optimizer = Field(
        Optimizer.ADAMW,
        description="adamw; adamw-8bit, paged-adamw and paged-adamw-8bit (bitsandbytes); adafactor; sgd; muon (matrices in layers, AdamW for the "
        "rest). Which goes with which strategy: docs/reference/strategies.md. Default adamw.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Weight decay, decoupled but with sgd. Default 0.")
    neftune_alpha: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Adds uniform noise of alpha / √(length × width) to the embeddings while training (NEFTune, arXiv 2310.05914; 5 to 15 are "
        "usual). No noise where it is not set.",
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm. Default 1.")
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description="Compute precision. bf16 keeps trained weights in float32 and computes in bfloat16. Default bf16. "
        f"{' '.join(f'{name} is not offered: {why}.' for name, why in PRECISIONS_NOT_OFFERED.items())}",
    )
    loss_on: Literal["completions", "all"] = Field(
        "completions",
        description="Which tokens the loss counts: the answers alone, or prompts as well; with objective pretrain always all. Default completions.",
    )
    dpo: Dpo | None = Field(None, description="Settings of objective dpo.")
    orpo: Orpo | None = Field(None, description="Settings of objective orpo.")
    kto: Kto | None = Field(None, description="Settings of objective kto.")
    reward: Reward | None = Field(None, description="Settings of objective reward.")
    embedding: Embedding | None = Field(None, description="Settings of objective embedding.")
    seed: int = Field(42, ge=0, le=2147483647, description="Seed of weights, data order and dropout. Default 42.")

    grpo: OnlinePolicy | None = Field(None, description="Settings of objective grpo.")
    rloo: OnlinePolicy | None = Field(None, description="Settings of objective rloo.")
    distill: Distill | None = Field(None, description="Settings of objective distill.")

    stop_on_divergence: bool = Field(
        True,
        description="End the job (reason Diverged) when the loss stays far above what it was: for 10 steps above three times the median of the "
        "last 100, at least 2 and at most 5 above it. A loss that is not a number ends it in any case. Default true.",
    )

    early_stopping: EarlyStopping | None = Field(
        None,
        description="End the training when the evaluation rows (dataset.split or dataset.evaluation) no longer get better; its last model is the "
        "result. Default: all steps are made.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.groupByLength || self.packing != 'best-fit'",
            message="training.groupByLength: packed sequences have about one length; remove it, or set packing: auto or none",
            holds=lambda t: not t.group_by_length or t.packing != "best-fit",
        ),
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            message="training: epochs and maxSteps exclude each other; remove one",
            holds=lambda t: t.epochs is None or t.max_steps is None,
        ),
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _is_offered(cls, value: Any) -> Any:
        """Tell why a precision that people look for does not exist; the API server can only name those that do."""
        if isinstance(value, str) and value in PRECISIONS_NOT_OFFERED:
            raise PydanticCustomError("not_offered", f"{value} is not offered: {PRECISIONS_NOT_OFFERED[value]}")
        return value

    @property
    def online(self) -> OnlinePolicy | None:
        """The settings of the objective whose answers are generated; None of the others."""
        return self.grpo or self.rloo

    @property
    def kl_weight(self) -> float:
        """The weight of the KL penalty of the objective whose answers are generated; 0 of the others."""
        if self.online is None:
            return 0.0
        return (
            KL_WEIGHTS[Objective.GRPO if self.grpo else Objective.RLOO]
            if self.online.beta is None
            else self.online.beta
        )

    @property
    def epochs_or_default(self) -> float:
        """The epochs that apply where `max_steps` is not set."""
        return DEFAULT_EPOCHS if self.epochs is None else self.epochs
