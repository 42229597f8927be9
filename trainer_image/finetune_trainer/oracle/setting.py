"""What is traced: one training step, described by everything that its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TracedMethod(StrEnum):
    """Which parameters are trained, and how the others are stored."""

    FULL = "full"
    LORA = "lora"
    DORA = "dora"
    RSLORA = "rslora"
    QLORA = "qlora"
    IA3 = "ia3"
    PROMPT = "prompt"
    FREEZE = "freeze"
    """All but the last `trained_layers` layers, the last norm and an untied head are frozen."""


class Precision(StrEnum):
    """Number formats of weights and of what is computed."""

    BF16 = "bf16"
    """Everything in bfloat16."""
    BF16_FLOAT32_ADAPTERS = "bf16-float32-adapters"
    """Adapters in float32 beside a bfloat16 base, without autocast: PEFT casts to float32 and back at each adapter."""
    AUTOCAST = "autocast"
    """Trained weights in float32 under bfloat16 autocast; a frozen base in bfloat16."""
    AUTOCAST_FLOAT32_BASE = "autocast-float32-base"
    """Everything stored in float32 under bfloat16 autocast, the frozen base too."""
    FLOAT32 = "float32"


class TracedLoss(StrEnum):
    """How hidden states become a loss."""

    FULL_LOGITS = "full-logits"
    """The model's own loss over the logits of every token."""
    CHUNKED = "chunked"
    """TRL 1.16's fused head (trl/kernels/chunked_logprob.py) with its Triton kernels."""


class TracedObjective(StrEnum):
    """What the step optimises."""

    SFT = "sft"
    DPO = "dpo"
    REWARD = "reward"
    CLASSIFICATION = "classification"
    MASKED_LM = "masked-lm"


class TracedOptimizer(StrEnum):
    """The optimizer's implementation."""

    ADAMW_FUSED = "adamw-fused"
    ADAMW_FOREACH = "adamw-foreach"
    SGD = "sgd"
    ADAFACTOR = "adafactor"


@dataclass(frozen=True)
class TraceSetting:
    """One process's share of a training step."""

    method: TracedMethod = TracedMethod.FULL
    precision: Precision = Precision.BF16
    micro_batch: int = 1
    sequence_length: int = 2048
    accumulation: int = 1
    """Micro-batches per optimizer step; of several one that is not the first is traced: it meets the gradients of those before."""
    checkpointing: bool = False
    """Full gradient checkpointing, not reentrant: transformers' default since version 5."""
    attention: str = "sdpa"
    """sdpa, eager or flash_attention_2 (the external package; traced as SDPA's flash kernel, whose shapes are the same)."""
    padding: bool = False
    """Rows of different length: the batch carries an attention mask that SDPA cannot ignore."""
    loss: TracedLoss = TracedLoss.FULL_LOGITS
    objective: TracedObjective = TracedObjective.SFT
    optimizer: TracedOptimizer = TracedOptimizer.ADAMW_FUSED
    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    dropout: float = 0.0
    trained_layers: int = 2
    virtual_tokens: int = 20
    kbit_preparation: bool = False
    """peft.prepare_model_for_kbit_training: what is not quantised becomes float32 (qlora only)."""
    processes: int = 1
    """More than one: FSDP2 over this many, traced as rank 0 with torch's fake process group."""
    reshard: bool = True
    """FSDP2 frees a layer's gathered weights after its forward."""
    splits_root: bool = True
    """FSDP2's units are accelerate 1.15's: embedding, last norm and head apart. Otherwise all that is outside the layers is one unit."""
    kernel_workspace: bool = True
    """Count what attention kernels allocate inside (gpu_operators.py); it is freed when the kernel returns."""

    def __post_init__(self) -> None:
        for name in ("micro_batch", "sequence_length", "accumulation", "rank", "trained_layers", "processes"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}, but at least 1 is needed")
        if self.method is TracedMethod.QLORA and self.precision in (Precision.FLOAT32, Precision.AUTOCAST_FLOAT32_BASE):
            raise ValueError(
                "precision of qlora must be bf16, bf16-float32-adapters or autocast: its base is never float32"
            )

    @property
    def autocasts(self) -> bool:
        """Whether the forward pass runs under bfloat16 autocast."""
        return self.precision in (Precision.AUTOCAST, Precision.AUTOCAST_FLOAT32_BASE)

    @property
    def has_adapters(self) -> bool:
        """Whether PEFT adds parameters to a frozen model."""
        return self.method not in (TracedMethod.FULL, TracedMethod.FREEZE)
